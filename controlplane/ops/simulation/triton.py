"""A simulated model server of one site: loads take time and may fail, a crash forgets everything.

It holds the truth of what answers users there, and tells the judge. Decides nothing."""

from collections.abc import Callable, Mapping
from random import Random

from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.versions import Catalogue, Flaw, Version

CANDIDATE_SUFFIX = "--candidate"
_LONGEST_LOAD_SECONDS = 60.0
_ANSWERS_WRONGLY = {
    # by flaw: as candidate, in place
    Flaw.ANSWERS_WRONGLY: (True, True),
    Flaw.WRONG_IN_PLACE: (False, True),
}


class Triton:
    """`ready` is what answers under each name; a load replaces it only once it has succeeded."""

    def __init__(
        self,
        *,
        site: int,
        clock: Clock,
        rng: Random,
        catalogue: Catalogue,
        judge: Judge,
        changed: Callable[[], None],
        died: Callable[[], None],
    ) -> None:
        self._site = site
        self._clock = clock
        self._rng = rng
        self._catalogue = catalogue
        self._judge = judge
        self._changed = changed
        self._died = died
        self.live = True
        self.boot = 0
        self.ready: dict[str, str] = {}
        self._loading: dict[str, str] = {}

    def states(self, name: str) -> Mapping[str, str]:
        """By version, as the index shows them."""
        states = {}
        if name in self.ready:
            states[self.ready[name]] = "READY"
        if name in self._loading:
            states[self._loading[name]] = "LOADING"
        return states

    def sight(self, model: str) -> tuple[str | None, ...]:
        """What is ready and what is loading, under both names of the model."""
        ready, loading, candidate = self.ready, self._loading, model + CANDIDATE_SUFFIX
        return ready.get(model), ready.get(candidate), loading.get(model), loading.get(candidate)

    def is_trying(self, model: str) -> bool:
        """Whether something is loaded, or being loaded, as the model's candidate."""
        return bool(self.states(model + CANDIDATE_SUFFIX))

    def load(self, model: str, version: str, *, as_candidate: bool) -> float:
        """Begins a load; how many seconds it will take."""
        name = model + CANDIDATE_SUFFIX if as_candidate else model
        seconds = self._rng.uniform(1.0, _LONGEST_LOAD_SECONDS)
        self._loading[name] = version
        self._clock.after(
            seconds, self._end_load, self.boot, name, self._catalogue.find(model, version)
        )
        return seconds

    def _end_load(self, boot: int, name: str, version: Version) -> None:
        if boot != self.boot or self._loading.pop(name, None) is None:
            return
        flaw, in_place = version.flaw_at(self._site), name == version.model
        self._clock.note("site {}: loaded {} as {}", self._site, version, name)
        if flaw is Flaw.KILLS_THE_SERVER:
            self._died()
            return
        refused = flaw is Flaw.DOES_NOT_LOAD or (in_place and flaw is Flaw.DOES_NOT_LOAD_IN_PLACE)
        if not refused:
            self.ready[name] = str(version.number)
            if in_place:
                self._judge.answers(self._site, version)
        self._changed()

    def replay(self, model: str, *, as_candidate: bool) -> bool:
        """Whether the golden requests are answered rightly by what is ready under that name."""
        name = model + CANDIDATE_SUFFIX if as_candidate else model
        version = self._catalogue.find(model, self.ready[name])
        flaw = version.flaw_at(self._site)
        wrong = flaw is not None and _ANSWERS_WRONGLY.get(flaw, (False, False))[not as_candidate]
        self._judge.replayed(self._site, version, is_right=not wrong, in_place=not as_candidate)
        return not wrong

    def unload(self, name: str) -> None:
        self.ready.pop(name, None)
        self._loading.pop(name, None)

    def crash(self) -> None:
        self.live, self.boot = False, self.boot + 1
        self.ready.clear()
        self._loading.clear()

    def come_back(self, named: Mapping[str, str]) -> None:
        """Serves what the configuration on disk names, by model; possibly nothing."""
        self.live = True
        for model, number in named.items():
            version = self._catalogue.find(model, number)
            flaw = version.flaw_at(self._site)
            if flaw in (None, Flaw.WRONG_IN_PLACE):
                self.ready[model] = number
                self._judge.answers(self._site, version)
        self._changed()
