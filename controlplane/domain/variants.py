"""Which build of a version a site gets: the highest priority that fits there for certain, else the
highest that fits as far as is known; equals by name; and in a sentence why that one.

It must not know what makes a build fit (`fit.py`), or rows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from controlplane.domain.fit import best_of, judge_profile, with_disk
from controlplane.domain.fit_facts import Answer, Demand, Profile, SiteFacts, Verdict


@dataclass(frozen=True, kw_only=True)
class Offered:
    """A build that a site may get, and what it asks for."""

    name: str
    priority: int
    demand: Demand


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The build and its answers, or `variant` None: none fits. `why` is one sentence; `rejected`
    are those looked at before, with what speaks against each."""

    variant: str | None
    why: str
    judged: Verdict
    rejected: tuple[tuple[str, Verdict], ...] = ()


# Known or not, it may be another figure when the version comes.
_OF_THE_MOMENT = ("disk", "memory", "accelerator-memory")
# By the name of a build and a profile: what does not depend on the disk is worked out once.
Known = dict[tuple[str, Profile], Verdict]


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Chooses for many sites: what two of them have in common is judged once."""

    builds: tuple[Offered, ...]
    known: Known = field(default_factory=dict)

    @classmethod
    def of(cls, builds: Iterable[Offered]) -> "Chooser":
        ordered = sorted(builds, key=lambda build: (-build.priority, build.name))
        return cls(builds=tuple(ordered))

    def choose(self, servers: Sequence[SiteFacts]) -> Choice:
        """For a site with these servers; one of which nothing is known where it has told of none.

        Raises `ValueError` where there is no build at all."""
        return _choose(self.builds, servers, self._judge)

    def _judge(self, build: Offered, facts: SiteFacts) -> Verdict:
        key = (build.name, facts.profile)
        judged = self.known.get(key)
        if judged is None:
            judged = self.known[key] = judge_profile(build.demand, facts.profile)
        return with_disk(judged, build.demand, facts)


def choose(builds: Iterable[Offered], servers: Sequence[SiteFacts]) -> Choice:
    """For one site; for many take a `Chooser`."""
    return Chooser.of(builds).choose(servers)


def _choose(
    builds: Sequence[Offered],
    servers: Sequence[SiteFacts],
    judge: Callable[[Offered, SiteFacts], Verdict],
) -> Choice:
    if not builds:
        raise ValueError("a version has one build at least")
    judged = [best_of(judge(build, facts) for facts in servers) for build in builds]
    fitting = [at for at, verdict in enumerate(judged) if verdict.fits]
    if not fitting:
        rejected = tuple((build.name, v) for build, v in zip(builds, judged, strict=True))
        return Choice(variant=None, why=_none_fits(rejected), judged=judged[0], rejected=rejected)
    # A build for special hardware does not go where nobody knows what stands, as long as a plainer
    # one fits for certain.
    at = next((at for at in fitting if not _unsure(judged[at])), fitting[0])
    before = tuple((builds[n].name, judged[n]) for n in range(at))
    return Choice(
        variant=builds[at].name,
        why=_why(builds[at], judged[at], before, len(builds)),
        judged=judged[at],
        rejected=before,
    )


def _unsure(judged: Verdict) -> list[str]:
    """What is not known of the questions that decide whether a build can run there at all."""
    unknown = (check.name for check in judged.checks if check.verdict is Answer.UNKNOWN)
    return [name for name in unknown if name not in _OF_THE_MOMENT]


def _why(
    build: Offered, judged: Verdict, rejected: Sequence[tuple[str, Verdict]], count: int
) -> str:
    if count == 1:
        return "the only build" + _doubts(judged)
    if not rejected:
        return f"{build.name} has the highest priority and fits{_doubts(judged)}"
    refused = "; ".join(f"{name} {_against(each)}" for name, each in rejected)
    return f"{refused}; {build.name} is the next and fits{_doubts(judged)}"


def _against(judged: Verdict) -> str:
    return judged.against or f"asks for what nobody knows of it: {', '.join(_unsure(judged))}"


def _doubts(judged: Verdict) -> str:
    unknown = [check.name for check in judged.checks if check.verdict is Answer.UNKNOWN]
    return f", as far as is known (not known: {', '.join(unknown)})" if unknown else ""


def _none_fits(rejected: Sequence[tuple[str, Verdict]]) -> str:
    if len(rejected) == 1:
        return rejected[0][1].against
    return "no build fits: " + "; ".join(f"{name} {each.against}" for name, each in rejected)
