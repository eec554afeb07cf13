"""How well what is paid for is used: by accelerator, model and site, and what lies idle.

What nobody measured is None and never 0; a sum says of how many it is. Whether something may go is
asked of its peaks (`idle_list.py`). It must not know rows, the clock, or where prices come from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

HOURS_A_MONTH = 730.0
JOULES_A_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class Tariff:
    """What a site pays. `pue` is its power usage effectiveness (1 where nobody stated it)."""

    price_per_kwh: float | None = None
    pue: float | None = None

    def price_of(self, joules: float | None) -> float | None:
        """Of what an accelerator took, with the cooling that it asks for."""
        if joules is None or self.price_per_kwh is None:
            return None
        return joules / JOULES_A_KWH * (self.pue or 1.0) * self.price_per_kwh


@dataclass(frozen=True, kw_only=True)
class ModelUse:
    """One version on one accelerator in the window. `hourly_occupancy` are the highest busy shares
    of its instances' time, hour by hour, None for an hour without figures."""

    site: str
    accelerator: str
    model: str
    version: int
    requests: int | None = None
    executions: int | None = None
    instances: int | None = None
    occupancy: float | None = None
    hourly_occupancy: Sequence[float | None] = ()
    memory_bytes: float | None = None

    @property
    def batch(self) -> float | None:
        """The achieved one: requests by execution."""
        return self.requests / self.executions if self.requests and self.executions else None

    @property
    def is_idle(self) -> bool:
        """Known to have had no request; not the same as no figures."""
        return self.requests == 0


@dataclass(frozen=True, kw_only=True)
class AcceleratorUse:
    """One accelerator over `hours`. Shares are 0 to 1, `hourly_busy` the highest of each hour, the
    same hours for all accelerators. `price_per_hour` is rent, or the depreciation of an owned one;
    `idle_watts` is what it takes doing nothing."""

    site: str
    name: str
    kind: str
    hours: float
    busy: float | None = None
    hourly_busy: Sequence[float | None] = ()
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    idle_watts: float | None = None
    energy_joules: float | None = None
    price_per_hour: float | None = None


@dataclass(frozen=True, kw_only=True)
class SiteUse:
    """`power_watts` is all that the site takes, where a reading says so."""

    site: str
    envelope_watts: float | None = None
    power_watts: float | None = None
    tariff: Tariff = Tariff()


@dataclass(frozen=True, kw_only=True)
class Total:
    """A sum over `known` of `of`; None where nothing is known."""

    value: float | None
    known: int
    of: int

    @property
    def complete(self) -> float | None:
        """The sum if it is of all; a part of the requests over all of the cost would be too dear.
        Nothing is all there is of nothing."""
        return None if self.known < self.of else self.value or 0.0


def total(values: Iterable[float | None]) -> Total:
    every = list(values)
    known = [value for value in every if value is not None]
    return Total(value=sum(known) if known else None, known=len(known), of=len(every))


def share(value: float | None) -> float | None:
    """A share that can be one; outside of 0 to 1 by more than a rounding it is no reading."""
    if value is None or not isfinite(value) or not 0 <= value <= 1.01:
        return None
    return min(value, 1.0)


def amount(value: float | None) -> float | None:
    """A quantity that can be one: not negative, and a number."""
    return value if value is not None and isfinite(value) and value >= 0 else None


@dataclass(frozen=True, kw_only=True)
class AcceleratorFigures:
    """`memory_idle_bytes` is held by models that had no request, of those whose memory is known.
    `lacks` names what the cost leaves out; `is_shared`: several models took the energy, so that it
    is an estimate by inference for each of them."""

    site: str
    name: str
    kind: str
    busy: float | None
    memory_share: float | None
    memory_idle_bytes: Total
    watts: float | None
    power_of_limit: float | None
    joules: float | None
    inferences: Total
    cost: float | None
    cost_per_million: float | None
    joules_per_inference: float | None
    lacks: tuple[str, ...]
    is_shared: bool


def accelerator_figures(
    use: AcceleratorUse, models: Iterable[ModelUse], tariff: Tariff
) -> AcceleratorFigures:
    """Of one accelerator and the models on it (others are left out)."""
    here = [each for each in models if (each.site, each.accelerator) == (use.site, use.name)]
    inferences = total(each.requests for each in here)
    served = inferences.complete
    joules = amount(use.energy_joules)
    parts = {
        "price": None if use.price_per_hour is None else use.price_per_hour * use.hours,
        "energy": tariff.price_of(joules),
    }
    cost = total(parts.values()).value
    return AcceleratorFigures(
        site=use.site,
        name=use.name,
        kind=use.kind,
        busy=share(use.busy),
        memory_share=share(ratio(use.memory_used_bytes, use.memory_total_bytes)),
        memory_idle_bytes=total(amount(each.memory_bytes) for each in here if each.is_idle),
        watts=amount(use.power_watts),
        power_of_limit=ratio(amount(use.power_watts), use.power_limit_watts),
        joules=joules,
        inferences=inferences,
        cost=cost,
        cost_per_million=None if cost is None or not served else cost / served * 1e6,
        joules_per_inference=joules / served if joules is not None and served else None,
        lacks=tuple(name for name, part in parts.items() if part is None),
        is_shared=sum(bool(each.requests) for each in here) > 1,
    )


@dataclass(frozen=True, kw_only=True)
class ModelFigures:
    """The cost and energy of an accelerator that several models use are split by the time that
    their instances were busy; None where that is not known of all of them."""

    site: str
    accelerator: str
    model: str
    version: int
    requests: int | None
    occupancy: float | None
    batch: float | None
    memory_bytes: float | None
    is_idle: bool
    cost_per_million: float | None
    joules_per_inference: float | None


def model_figures(
    use: AcceleratorUse, models: Sequence[ModelUse], tariff: Tariff
) -> tuple[ModelFigures, ...]:
    """Of the models on one accelerator."""
    whole = accelerator_figures(use, models, tariff)
    here = [each for each in models if (each.site, each.accelerator) == (use.site, use.name)]
    parts = _parts(here)
    joules = amount(use.energy_joules)
    return tuple(
        ModelFigures(
            site=each.site,
            accelerator=each.accelerator,
            model=each.model,
            version=each.version,
            requests=each.requests,
            occupancy=share(each.occupancy),
            batch=each.batch,
            memory_bytes=amount(each.memory_bytes),
            is_idle=each.is_idle,
            cost_per_million=_by_inference(whole.cost, part, each.requests, 1e6),
            joules_per_inference=_by_inference(joules, part, each.requests, 1.0),
        )
        for each, part in zip(here, parts, strict=True)
    )


def _parts(models: Sequence[ModelUse]) -> list[float | None]:
    """Each model's part of the accelerator's time; 1 of the only one that is used."""
    used = [each for each in models if not each.is_idle]
    if len(used) == 1:
        return [None if each.is_idle else 1.0 for each in models]
    work = {
        id(each): None
        if (busy := share(each.occupancy)) is None or not each.instances
        else busy * each.instances
        for each in used
    }
    whole = total(work.values()).complete
    if not whole:
        return [None for _ in models]
    return [None if (part := work.get(id(each))) is None else part / whole for each in models]


def _by_inference(
    whole: float | None, part: float | None, requests: int | None, unit: float
) -> float | None:
    if whole is None or part is None or not requests:
        return None
    return whole * part / requests * unit


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Several accelerators together: those of a site, of a kind or of the fleet. `busy` is the mean
    of the `busy_known` that report it. By inference is of those of which both are known; what costs
    and serves nobody makes the others dearer."""

    accelerators: int
    busy: float | None
    busy_known: int
    memory_idle_bytes: Total
    watts: Total
    joules: Total
    inferences: Total
    cost: Total
    cost_per_million: float | None
    joules_per_inference: float | None


def summarise(figures: Iterable[AcceleratorFigures]) -> Summary:
    every = list(figures)
    busy = total(each.busy for each in every)
    return Summary(
        accelerators=len(every),
        busy=None if busy.value is None else busy.value / busy.known,
        busy_known=busy.known,
        memory_idle_bytes=total(each.memory_idle_bytes.complete for each in every),
        watts=total(each.watts for each in every),
        joules=total(each.joules for each in every),
        inferences=total(each.inferences.complete for each in every),
        cost=total(each.cost for each in every),
        cost_per_million=_over([(e.cost, e.inferences.complete) for e in every], 1e6),
        joules_per_inference=_over([(e.joules, e.inferences.complete) for e in every], 1.0),
    )


def _over(pairs: Iterable[tuple[float | None, float | None]], unit: float) -> float | None:
    known = [(part, whole) for part, whole in pairs if part is not None and whole is not None]
    served = sum(whole for _, whole in known)
    return sum(part for part, _ in known) / served * unit if served else None


def power_of_envelope(site: SiteUse, summary: Summary) -> float | None:
    """The site's own reading against its envelope; without one, its accelerators with the cooling
    they ask for, where all of them report and the site says what cooling takes. At least so much:
    the machines around them take power too."""
    if (reading := amount(site.power_watts)) is not None:
        return ratio(reading, site.envelope_watts)
    watts = summary.watts.complete
    if watts is None or site.tariff.pue is None or not summary.accelerators:
        return None
    return ratio(watts * site.tariff.pue, site.envelope_watts)


def ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
