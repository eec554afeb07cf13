"""What is known of a site, what a build asks for, which sites are asked about, and the form of an
answer: values for `fit.py`.

Whether anything fits is not decided here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property

from controlplane.domain.label_selector import parse_label_selector
from controlplane.domain.selector import SiteTraits

# As ContentClass names them.
EXECUTABLE = "executable"
OPAQUE = "opaque"


class Answer(StrEnum):
    """`unknown` refuses nothing."""

    OK = "ok"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question and its answer. `have` and `need` are the numbers as people read them."""

    name: str
    verdict: Answer
    have: str
    need: str
    sentence: str

    def document(self) -> dict[str, str]:
        return {**vars(self), "verdict": self.verdict.value}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One accelerator; empty and None: not reported."""

    name: str
    memory_bytes: int | None = None
    compute_capability: str = ""
    driver: str = ""


@dataclass(frozen=True, kw_only=True)
class Triton:
    """One Triton of a server. `models` are the patterns of what it takes, None: whatever no other
    takes; `backends` None and the empty texts: not reported."""

    version: str = ""
    models: tuple[str, ...] | None = None
    backends: frozenset[str] | None = None
    tensorrt: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a server is, whatever lies on its disk. `gpus` None: nobody could look."""

    memory_bytes: int | None = None
    gpus: tuple[Gpu, ...] | None = None
    tritons: tuple[Triton, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model in memory and what loading it took; None: nobody measured it."""

    model: str
    memory_bytes: int | None = None
    accelerator_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """All of a site that is the same at many sites: what does not depend on its disk.
    `trusted_keys` are the fingerprints of the release keys that its agent trusts."""

    machine: Machine
    hardware: str = ""
    executable_allowed: bool | None = None
    floor_waiver: str = ""
    trusted_keys: frozenset[str] = frozenset()
    loaded: tuple[Loaded, ...] = ()

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, entry.name) for entry in fields(self)))

    def __hash__(self) -> int:
        """Worked out once: many sites are looked up by the profile that they share."""
        return self._hash


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """A server of a site with the site's own rules."""

    profile: Profile
    disk_total_bytes: int | None = None
    disk_free_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What loading a build was seen to take; None: not seen."""

    memory_bytes: int | None = None
    accelerator_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one build asks for. `learned` by the hardware it was measured on; `signed_by` the
    fingerprints of the release keys that vouch for the version."""

    model: str
    size_bytes: int
    requires: Mapping[str, object] = field(default_factory=dict)
    content_class: str = ""
    learned: Mapping[str, Footprint] = field(default_factory=dict)
    signed_by: frozenset[str] = frozenset()

    @property
    def asks_machines(self) -> bool:
        """Whether anything but room on the disk is asked for."""
        ruled = self.content_class in (EXECUTABLE, OPAQUE)
        return bool(self.requires) or bool(self.learned) or ruled


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All answers together. `only_by_replace`: beside what serves it finds no memory, in its place
    it does."""

    verdict: Answer
    checks: tuple[Check, ...]
    only_by_replace: bool = False

    @property
    def fits(self) -> bool:
        return self.verdict is not Answer.NO

    @property
    def against(self) -> str:
        """The sentences of what refuses it; nothing where it fits."""
        return "; ".join(c.sentence for c in self.checks if c.verdict is Answer.NO)


def matching(selector: str) -> Callable[[SiteTraits], bool]:
    """The sites whose labels hold, among them `name`, `tier`, `region` and `hardware`; empty: all.

    Raises `InvalidInput` (`selector-invalid`).
    """
    requirements = parse_label_selector(selector) if selector else ()

    def matches(traits: SiteTraits) -> bool:
        own = {"name": traits.name, "tier": traits.tier, "region": traits.region}
        labels = {**traits.labels, **own, "hardware": traits.hardware}
        return all(requirement.holds(labels) for requirement in requirements)

    return matches


def numbers(version: str) -> tuple[int, ...] | None:
    """A version as something that compares; None for what is none."""
    parts = version.split(".")
    if not all(part.isascii() and part.isdigit() for part in parts):
        return None
    return tuple(int(part) for part in parts)


def size_text(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
