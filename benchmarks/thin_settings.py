"""The peer without any middleware: the floor of Django itself, below which no view comes."""

from benchmarks.bare_settings import *  # noqa: F403 - the very same settings are the point

MIDDLEWARE = []
