"""The one error of the benchmarks: a run that proves nothing must not print figures."""


class BenchmarkVoid(Exception):
    """The run is worthless; the text says what was seen and what should have been."""
