"""What is frozen now, as lines of the banner that stands on every page."""

from dataclasses import dataclass
from datetime import datetime

from controlplane.fleet.queries import traits_by_site
from controlplane.rollouts.freezes import active_freezes, held
from controlplane.rollouts.models import Freeze
from controlplane.web.words import select_words


@dataclass(frozen=True, kw_only=True)
class FreezeLine:
    """One freeze in force: whom it means, and how many sites that is now."""

    freeze: Freeze
    whom: str
    held: int

    @property
    def lift_id(self) -> str:
        """Of its button on a page."""
        return f"lift-{self.freeze.pk}"

    @property
    def shown(self) -> tuple[object, ...]:
        return self.freeze.pk, self.held


def freeze_lines(now: datetime) -> list[FreezeLine]:
    """One query while nothing is frozen, three however much is."""
    freezes = list(active_freezes(now))
    traits = traits_by_site() if freezes else {}
    return [
        FreezeLine(freeze=freeze, whom=whom(freeze), held=held(freeze, traits))
        for freeze in freezes
    ]


def whom(freeze: Freeze) -> str:
    return select_words(freeze.selector, "the whole fleet")
