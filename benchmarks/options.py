"""What a run may be told: how long, how often, against what. Knows no benchmark."""

from dataclasses import dataclass
from pathlib import Path

DATABASES = ("sqlite", "postgresql")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`seconds` is the length of one round of one case."""

    rounds: int = 3
    seconds: float = 1.5
    warm_up_seconds: float = 0.5
    agents: int = 50
    connections: int = 8
    databases: tuple[str, ...] = DATABASES
    results: Path = Path("benchmarks/results")
