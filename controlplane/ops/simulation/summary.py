"""What a simulated history came to, and many of them together, in words that are the same for the
same seeds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.ops.simulation.invariants import Invariant
from controlplane.ops.simulation.options import Options

_YEAR_SECONDS = 365.25 * 86_400


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One seed. `settled_seconds`: from the end of faults to the end of the last rollout; `story`:
    the last things that happened before an invariant broke."""

    options: Options
    virtual_seconds: float
    events: int
    turns: int
    rollouts: Counter[str]
    faults: Counter[str]
    checked: Counter[Invariant]
    settled_seconds: float
    broken: Invariant | None
    detail: str
    story: Sequence[str]

    def progress(self) -> str:
        """One line."""
        ended = ", ".join(f"{count} {state}" for state, count in sorted(self.rollouts.items()))
        verdict = f"BROKEN {self.detail}" if self.broken else "ok"
        seed, events = self.options.seed, f"{self.events:,} events"
        return f"seed {seed}: {events}; {ended or 'no rollout'}; {verdict}"

    def failure(self) -> str:
        """The seed, and what happened before."""
        story = "\n".join(f"  {line}" for line in self.story)
        return f"seed {self.options.seed} broke {self.detail}\nlast events before it:\n{story}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """All of them together, as a page. Needs at least one."""
    options = outcomes[0].options
    seeds = [outcome.options.seed for outcome in outcomes]
    rollouts: Counter[str] = sum((o.rollouts for o in outcomes), Counter())
    faults: Counter[str] = sum((o.faults for o in outcomes), Counter())
    checked: Counter[Invariant] = sum((o.checked for o in outcomes), Counter())
    site_years = sum(o.virtual_seconds for o in outcomes) * options.sites / _YEAR_SECONDS
    lines = [
        f"sites             {options.sites} over {len(seeds)} x {options.hours:g} h "
        f"(seeds {seeds[0]} to {seeds[-1]})",
        f"virtual time      {site_years:.2f} site-years",
        f"events            {sum(o.events for o in outcomes):,}",
        f"engine turns      {sum(o.turns for o in outcomes):,}",
        f"settled after     {max(o.settled_seconds for o in outcomes) / 60:.0f} min at most, "
        f"of {options.quiet_seconds / 60:.0f} without faults",
        f"rollouts          {sum(rollouts.values()):,}",
        *_table(rollouts),
        f"faults and people {sum(faults.values()):,}",
        *_table(faults),
        f"checks            {sum(checked.values()):,}",
        *[f"  {checked[invariant]:>12,}  {invariant.value}" for invariant in Invariant],
        f"broken invariants {sum(o.broken is not None for o in outcomes)}",
        *[f"  seed {o.options.seed}: {o.detail}" for o in outcomes if o.broken],
    ]
    return "\n".join(lines)


def _table(counts: Counter[str]) -> list[str]:
    return [f"  {count:>12,}  {name}" for name, count in sorted(counts.items())]
