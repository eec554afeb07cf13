"""What a run may be told: how long, how often, against what. Knows no benchmark."""

from dataclasses import dataclass
from pathlib import Path

DATABASES = ("sqlite", "postgresql")
# Sites of the rollout that `--full` adds: it takes many minutes.
FULL_SIZE = 10_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """`seconds` is the length of one round of one case; `sizes` are the numbers of sites of the
    rollouts that are timed from start to end."""

    rounds: int = 3
    seconds: float = 1.5
    warm_up_seconds: float = 0.5
    agents: int = 50
    connections: int = 8
    tick_sites: int = 1000
    tick_rollouts: int = 100
    sizes: tuple[int, ...] = (100, 1000)
    delta_megabytes: int = 100
    footprint_seconds: float = 100.0
    switches: int = 20
    download_mib: tuple[int, ...] = (256, 1024)
    push_mib: int = 1024
    databases: tuple[str, ...] = DATABASES
    results: Path = Path("benchmarks/results")
