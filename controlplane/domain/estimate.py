"""How many bytes a plan moves and about how long it takes, from what is stated about the links.

An estimate for people, never a limit: nothing is decided by it. It must not know the clock."""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.domain.policy import Limits

# Of a site whose downlink nobody stated.
ASSUMED_MBIT_PER_S = 100.0
# From verified bytes to the new version answering: load beside the old, golden requests, switch.
ACTIVATION_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a stage costs. `transfer_seconds` and `activation_seconds` come before the soak."""

    bytes_to_move: int
    transfer_seconds: float
    activation_seconds: float
    soak_seconds: float
    assumed_links: int

    @property
    def seconds(self) -> float:
        return self.transfer_seconds + self.activation_seconds + self.soak_seconds


def stage_effort(
    *,
    limits: Limits,
    size_bytes: int,
    downlinks_mbit_per_s: Sequence[float | None],
    soak_seconds: float,
) -> Effort:
    """Bytes first, `max_concurrent` sites at a time, the slowest together; then activation,
    `max_unavailable` at a time; then the soak. An empty stage is skipped and takes no time.

    In truth transfer and activation overlap, and a site that holds some of the files moves less, so
    it is rather too long than too short.
    """
    links = [link if link else ASSUMED_MBIT_PER_S for link in downlinks_mbit_per_s]
    if not links:
        return Effort(
            bytes_to_move=0,
            transfer_seconds=0.0,
            activation_seconds=0.0,
            soak_seconds=0.0,
            assumed_links=0,
        )
    # One after the other the waves take as long as their slowest sites, which stand first.
    slowest_of_each_wave = sorted(links)[:: limits.max_concurrent]
    at_once = min(limits.max_concurrent, limits.max_unavailable)
    return Effort(
        bytes_to_move=size_bytes * len(links),
        transfer_seconds=sum(size_bytes * 8 / (link * 1e6) for link in slowest_of_each_wave),
        activation_seconds=-(-len(links) // at_once) * ACTIVATION_SECONDS,
        soak_seconds=soak_seconds,
        assumed_links=sum(not link for link in downlinks_mbit_per_s),
    )


def stage_seconds(efforts: Sequence[Effort], *, barrier: bool) -> list[float]:
    """How long each stage takes, one after the other. With a `barrier` every site fetches from the
    beginning, so a later stage waits only for what is still under way when its turn comes."""
    if not barrier:
        return [effort.seconds for effort in efforts]
    taken: list[float] = []
    for effort in efforts:
        still = max(0.0, effort.transfer_seconds - sum(taken))
        taken.append(still + effort.activation_seconds + effort.soak_seconds)
    return taken


def assumptions(efforts: Sequence[Effort]) -> list[str]:
    """What the estimate takes for granted, as sentences."""
    said = [f"{ACTIVATION_SECONDS:g} s a site to load, prove and switch"]
    if unstated := sum(effort.assumed_links for effort in efforts):
        which = "1 site states" if unstated == 1 else f"{unstated} sites state"
        said.append(f"{which} no downlink; {ASSUMED_MBIT_PER_S:g} Mbit/s is assumed")
    return said
