"""What a rollout is asked to do, stage by stage: read from a document, every fault named.

It must not know which sites there are; `selection.py` puts them into the stages."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.policy import StagePolicy, parse_policy
from controlplane.domain.selector import SiteSelector, parse_selector

MAX_STAGES = 50
MAX_SOAK_SECONDS = 30 * 24 * 3600
MAX_COUNT = 1_000_000
PER = ("region", "tier", "hardware")
SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_DRAW_KEYS = ("percent", "count", "per")
_STAGE_KEYS = ("name", "select", "soak_seconds", "policy", "trailing")


@dataclass(frozen=True, kw_only=True)
class StageSpec(SiteSelector):
    """One stage as asked for: a selector, and how many are drawn of what it leaves.

    All of them, `percent` of them, `count` of them, or `count` (1 if not said) of each region, tier
    or kind of hardware (`per`). A `trailing` stage takes the sites that join late or were put off;
    at planning it takes some only if it selects any.
    """

    name: str
    soak_seconds: float
    percent: int | None = None
    count: int | None = None
    per: str | None = None
    policy: StagePolicy = field(default_factory=StagePolicy)
    trailing: bool = False

    @property
    def draws(self) -> bool:
        """Whether it takes some of those that its conditions leave, not all."""
        return any(getattr(self, key) is not None for key in _DRAW_KEYS)

    def select_document(self) -> dict[str, object]:
        """The selection in the form the API takes it."""
        drawn = {key: getattr(self, key) for key in _DRAW_KEYS}
        return super().document() | {k: value for k, value in drawn.items() if value is not None}

    def document(self) -> dict[str, object]:
        """The whole stage in the form the API takes it."""
        document: dict[str, object] = {
            "name": self.name,
            "select": self.select_document(),
            "soak_seconds": self.soak_seconds,
        }
        if policy := self.policy.document():
            document["policy"] = policy
        if self.trailing:
            document["trailing"] = True
        return document


DEFAULT_STAGES = (
    StageSpec(name="canary", percent=10, soak_seconds=60),
    StageSpec(name="half", percent=50, soak_seconds=60),
    StageSpec(name="rest", percent=100, soak_seconds=60),
)


def parse_stages(document: object) -> tuple[StageSpec, ...]:
    """Stages as asked for; None asks for the default. Raises `InvalidInput` (`stage-invalid`)."""
    if document is None:
        return DEFAULT_STAGES
    faults: list[FieldError] = []
    specs = read_stages(document, faults)
    if faults:
        raise InvalidInput("stage-invalid", "The stages cannot be used as given.", errors=faults)
    return specs


def read_stages(document: object, faults: list[FieldError]) -> tuple[StageSpec, ...]:
    """The stages that can be read; every fault is added to `faults`."""
    if not isinstance(document, list) or not document:
        message = "must be a list with at least one stage"
        faults.append(FieldError(field="stages", message=message))
        return ()
    if len(document) > MAX_STAGES:
        message = f"has {len(document)} stages; at most {MAX_STAGES} are allowed"
        faults.append(FieldError(field="stages", message=message))
        return ()
    read = [_read_stage(f"stages[{i}]", entry, faults) for i, entry in enumerate(document)]
    names = [spec.name for spec in read if spec]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(FieldError(field="stages", message=f"the name {name!r} is there twice"))
    _refuse_trailing_before_the_last(read, faults)
    _refuse_sites_named_twice(read, faults)
    return tuple(spec for spec in read if spec)


def parse_exclude(document: object) -> SiteSelector | None:
    """Whom a rollout leaves out, whatever its stages select; None when nobody is.

    Raises `InvalidInput` (`exclude-invalid`).
    """
    if document is None:
        return None
    faults: list[FieldError] = []
    asked = parse_selector(document, "exclude", faults)
    if asked is not None and asked.exclude:
        message = "is not known here; name the sites to leave out in sites"
        faults.append(FieldError(field="exclude.exclude", message=message))
    if faults or asked is None:
        detail = "The sites to leave out cannot be used as given."
        raise InvalidInput("exclude-invalid", detail, errors=faults)
    return asked if asked.conditions() else None


def _refuse_trailing_before_the_last(
    read: Sequence[StageSpec | None], faults: list[FieldError]
) -> None:
    for index, spec in enumerate(read[:-1]):
        if spec and spec.trailing:
            message = "only the last stage may be trailing"
            faults.append(FieldError(field=f"stages[{index}].trailing", message=message))


def _refuse_sites_named_twice(read: Sequence[StageSpec | None], faults: list[FieldError]) -> None:
    named: dict[str, str] = {}
    for index, spec in enumerate(read):
        for site in sorted(spec.sites or ()) if spec else ():
            assert spec
            if first := named.get(site):
                message = f"{site!r} is named by stage {first!r} already; a site is in one stage"
                faults.append(FieldError(field=f"stages[{index}].select.sites", message=message))
            named.setdefault(site, spec.name)


def _read_stage(where: str, entry: object, faults: list[FieldError]) -> StageSpec | None:
    if not isinstance(entry, Mapping):
        faults.append(FieldError(field=where, message="must be an object with name and select"))
        return None
    before = len(faults)

    def fault(key: str, message: str) -> None:
        faults.append(FieldError(field=f"{where}.{key}", message=message))

    for key in sorted(set(map(str, entry)) - set(_STAGE_KEYS)):
        fault(key, f"is not known; a stage has {', '.join(_STAGE_KEYS)}")
    name, soak = entry.get("name"), entry.get("soak_seconds", 60)
    if not isinstance(name, str) or not SLUG.fullmatch(name):
        fault("name", "must be 1 to 40 of a-z 0-9 -, such as canary")
    if (
        isinstance(soak, bool)
        or not isinstance(soak, int | float)
        or not 0 <= soak <= MAX_SOAK_SECONDS
    ):
        fault("soak_seconds", f"must be a number from 0 to {MAX_SOAK_SECONDS}")
    select = entry.get("select", {})
    selector = parse_selector(select, f"{where}.select", faults, also=_DRAW_KEYS)
    draw = _read_draw(select, fault) if isinstance(select, Mapping) else {}
    policy = parse_policy(entry.get("policy"), f"{where}.policy", faults)
    trailing = entry.get("trailing", False)
    if not isinstance(trailing, bool):
        fault("trailing", "must be true or false")
    if len(faults) > before:
        return None
    assert isinstance(name, str)
    assert policy is not None
    return StageSpec(
        name=name,
        soak_seconds=float(soak),
        policy=policy,
        trailing=trailing,
        **vars(selector),
        **draw,
    )


def _read_draw(select: Mapping[str, object], fault: Callable[[str, str], None]) -> dict[str, Any]:
    percent, count, per = (select.get(key) for key in _DRAW_KEYS)
    if percent is not None and not _whole(percent, 100):
        fault("select.percent", "must be a whole number from 1 to 100")
    if count is not None and not _whole(count, MAX_COUNT):
        fault("select.count", f"must be a whole number from 1 to {MAX_COUNT}")
    if per is not None and per not in PER:
        fault("select.per", f"must be one of {', '.join(PER)}")
    if percent is not None and count is not None:
        fault("select.percent", "cannot stand beside count; give one of them")
    if percent is not None and per is not None:
        fault("select.percent", "cannot stand beside per; give count, or per alone")
    return {"percent": percent, "count": count, "per": per}


def _whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
