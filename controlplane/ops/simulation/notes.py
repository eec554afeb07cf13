"""What the centre wrote in one transaction, for the judge to look at once it is committed."""

from typing import NamedTuple

from controlplane.domain.rollout import RolloutState, StageState
from controlplane.ops.simulation.rows import Deployment, Rollout, Stage
from controlplane.ops.simulation.versions import Version


class RolloutMoved(NamedTuple):
    rollout: Rollout
    state: RolloutState


class StageMoved(NamedTuple):
    rollout: Rollout
    stage: Stage
    state: StageState


class Soaked(NamedTuple):
    """`since`: up to when the soak was counted before, in virtual seconds."""

    rollout: Rollout
    stage: Stage
    seconds: float
    since: float | None


class WishChanged(NamedTuple):
    """`generation_before` and `generation` are the site's."""

    rollout: Rollout
    site: int
    before: Version | None
    after: Version | None
    generation_before: int
    generation: int
    offer: Deployment | None


class Activated(NamedTuple):
    deployment: Deployment


class Ended(NamedTuple):
    """The centre ended it by itself; the site may not know yet."""

    deployment: Deployment


class Granted(NamedTuple):
    """A lease, while so many sites of the stage might be unavailable."""

    deployment: Deployment
    max_unavailable: int


Note = RolloutMoved | StageMoved | Soaked | WishChanged | Activated | Ended | Granted
