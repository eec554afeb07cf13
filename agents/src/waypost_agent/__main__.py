"""`python -m waypost_agent` is the command `waypost-agent`."""

import sys

from waypost_agent.cli import main

sys.exit(main())
