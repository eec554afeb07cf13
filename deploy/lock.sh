#!/bin/sh
# Renews every lock file; deploy/lock.py says how. PYTHON names another interpreter (3.11 or 3.12).
exec "${PYTHON:-python3}" "$(dirname "$0")/lock.py" "$@"
