"""Versions and the truth about them: what each does at each site, which nobody may look up but the
simulated servers and the judge."""

from dataclasses import dataclass
from enum import StrEnum


class Flaw(StrEnum):
    """What is wrong with a version, where it is wrong."""

    ANSWERS_WRONGLY = "answers-wrongly"
    DOES_NOT_LOAD = "does-not-load"
    WRONG_IN_PLACE = "wrong-in-place"
    DOES_NOT_LOAD_IN_PLACE = "does-not-load-in-place"
    KILLS_THE_SERVER = "kills-the-server"


@dataclass(frozen=True, kw_only=True, eq=False)
class Version:
    """`flawed_at` None: at every site."""

    model: str
    number: int
    flaw: Flaw | None = None
    flawed_at: frozenset[int] | None = frozenset()

    @property
    def digest(self) -> str:
        return f"sha256:{self.model}-{self.number}"

    def flaw_at(self, site: int) -> Flaw | None:
        return self.flaw if self.flawed_at is None or site in self.flawed_at else None

    def __str__(self) -> str:
        return f"{self.model} {self.number}"


class Catalogue:
    """Every version there is, by model and number."""

    def __init__(self) -> None:
        self._versions: dict[str, list[Version]] = {}

    def push(self, version: Version) -> Version:
        self._versions.setdefault(version.model, []).append(version)
        return version

    def next_number(self, model: str) -> int:
        return len(self._versions.get(model, ())) + 1

    def find(self, model: str, number: str) -> Version:
        return self._versions[model][int(number) - 1]

    def of(self, model: str) -> list[Version]:
        return self._versions[model]
