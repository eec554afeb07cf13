"""The peer's settings: the product's, with no path but two bare views. Only the peer's servers
load this; what differs from the product's settings is this list and nothing else."""

from controlplane.config.settings import *  # noqa: F403 - the very same settings are the point

ROOT_URLCONF = "benchmarks.bare_view"
