#!/bin/sh
# Holds the network that Triton and the agent share, so that either can be restarted without the
# other losing its loopback; and makes this boot's secret between the two.
set -eu
umask 077
new=/run/waypost/.triton-secret.new
rm -f "$new"
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' > "$new"
chmod 0440 "$new"
# Renamed into place: a reader sees the old secret or the new one, never half of it.
mv -f "$new" /run/waypost/triton-secret
exec sleep infinity
