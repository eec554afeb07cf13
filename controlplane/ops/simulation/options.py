"""What is simulated: how large, how long, how hostile. Chance comes from the seed alone."""

from dataclasses import dataclass

TIERS = ("hyperscale", "regional", "edge")
_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """One history. Shares are of messages, steps or turns; rates are per site and hour."""

    sites: int
    hours: float
    seed: int
    loss: float = 0.10
    duplication: float = 0.05
    lateness: float = 0.05
    latest_seconds: float = 600.0
    cut_rate: float = 0.06
    longest_cut_seconds: float = _HOUR
    agent_crash_rate: float = 0.05
    step_crash_share: float = 0.02
    triton_crash_rate: float = 0.05
    turn_crash_share: float = 0.05
    wrong_clock_share: float = 0.1
    models: int = 2
    paired_share: float = 0.1
    poll_seconds: float = 60.0
    tick_seconds: float = 10.0
    patience: float = 10.0

    def __post_init__(self) -> None:
        shares = (self.loss, self.duplication, self.lateness)
        if self.sites < 1 or not self.hours > 0:
            raise ValueError("a fleet has at least one site, and some hours to be simulated")
        if min(shares) < 0 or sum(shares) > 0.9:
            raise ValueError("shares of messages are 0 or more, together at most 0.9")

    @property
    def end(self) -> float:
        return self.hours * _HOUR

    @property
    def quiet_seconds(self) -> float:
        """How long before the end faults stop: within it everything must come to rest."""
        return min(3 * _HOUR, self.end / 2)

    @property
    def calm_from(self) -> float:
        return self.end - self.quiet_seconds

    @property
    def longest_soak_seconds(self) -> float:
        """Four stages of it, and what stands between them, fit into the quiet time."""
        return self.quiet_seconds / 16

    @property
    def fresh_seconds(self) -> float:
        """As the settings have it: three polls, and five seconds."""
        return 3 * self.poll_seconds + 5
