"""The brain: pure functions and values. No Django, clock, chance or I/O; `now` is an argument."""
