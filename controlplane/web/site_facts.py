"""What a site's page says of its agent, its servers and what was measured there: rows into words.

Decides nothing: warnings are the domain's, figures too."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from controlplane.audit.models import Event
from controlplane.catalog.signing_keys import signing_keys
from controlplane.domain.figures import Figures
from controlplane.domain.triton_floor import floor_warning
from controlplane.fleet.measurements import measured_intervals, model_figures
from controlplane.fleet.models import (
    AcceleratorMeasurement,
    Agent,
    MeasuredInterval,
    Server,
    Site,
)
from controlplane.fleet.protocol import SUPPORTED_PROTOCOL

# A quiet site tells every five minutes; figures that are older than two such are shown as old.
_FRESH = timedelta(minutes=10)
_ALARMING = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class TritonLine:
    """One Triton of a server; `name` is empty where there is one alone, lists None if unknown."""

    name: str
    version: str
    live: bool | None
    extensions: Sequence[str] | None
    backends: Sequence[str] | None
    warning: str


@dataclass(frozen=True, kw_only=True)
class ServerLine:
    server: Server
    tritons: tuple[TritonLine, ...]


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """`figures` is None where it was loaded and asked nothing."""

    server: str
    model: str
    version: str
    figures: Figures | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    interval: MeasuredInterval
    is_old: bool
    models: tuple[MeasuredModel, ...]
    accelerators: tuple[tuple[str, AcceleratorMeasurement], ...]


def server_lines(servers: Sequence[Server]) -> list[ServerLine]:
    return [ServerLine(server=server, tritons=_tritons(server)) for server in servers]


def _tritons(server: Server) -> tuple[TritonLine, ...]:
    told: list[dict[str, Any]] = server.tritons or [
        {"name": "", "version": server.triton_version, "live": server.triton_live}
    ]
    return tuple(
        TritonLine(
            name=each["name"],
            version=each["version"],
            live=each["live"],
            extensions=each.get("extensions"),
            backends=each.get("backends"),
            warning=floor_warning(each["version"]),
        )
        for each in told
    )


def measured(site: Site, servers: Sequence[Server], now: datetime) -> Measured | None:
    """The newest interval, None where nothing was measured in a day."""
    interval = measured_intervals(site).first()
    if interval is None:
        return None
    busy = [
        MeasuredModel(
            server=row.server,
            model=row.model,
            version=str(row.version),
            figures=model_figures(interval, row),
        )
        for row in interval.models.all()
    ]
    idle = [
        MeasuredModel(server=server, model=model, version=version, figures=None)
        for server, model, version in interval.idle
    ]
    names = {card.uuid: card.name for each in servers for card in each.accelerators.all()}
    return Measured(
        interval=interval,
        is_old=now - interval.ended_at > _FRESH,
        models=tuple(sorted(busy + idle, key=lambda each: (each.server, each.model, each.version))),
        accelerators=tuple(
            (names.get(row.uuid, row.uuid), row) for row in interval.accelerators.all()
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What the site's own configuration allows and trusts; None is not reported. `keys` are the
    fingerprints of the release keys it trusts, each with its name here or nothing."""

    executable: bool | None
    unsigned: str | None
    keys: tuple[tuple[str, str], ...] | None


def allowed_at(agent: Agent | None) -> Allowed:
    """One query, none where no key is trusted."""
    if agent is None:
        return Allowed(executable=None, unsigned=None, keys=None)
    trust: dict[str, Any] | None = agent.trust
    if trust is None:
        return Allowed(executable=agent.executable_allowed, unsigned=None, keys=None)
    prints = [str(each) for each in trust.get("keys", ())]
    rows = signing_keys().filter(fingerprint__in=prints) if prints else []
    names = {row.fingerprint: row.name for row in rows}
    return Allowed(
        executable=agent.executable_allowed,
        unsigned=trust.get("unsigned"),
        keys=tuple((each, names.get(each, "")) for each in prints),
    )


def agent_warnings(agent: Agent | None, events: Iterable[Event], now: datetime) -> list[str]:
    """What a person has to look at: the agent's row, and what the newest events tell of joins that
    were refused."""
    said = [
        f"A used enrolment token came with another key at {event.at:%Y-%m-%d %H:%M} UTC, from a "
        f"host that calls itself {event.data.get('hostname') or 'nothing'}. It was refused. If "
        "nobody here tried to join twice, revoke the agent and make a new token."
        for event in events
        if event.action == "agent.enrolment_refused" and now - event.at < _ALARMING
    ][:1]
    if agent is None:
        return said
    if agent.refused_protocol:
        said.append(
            f"The agent (version {agent.agent_version or 'not reported'}) speaks protocol "
            f"{agent.refused_protocol}, this centre speaks {SUPPORTED_PROTOCOL}, so nothing it "
            "says is taken: upgrade the older of the two. The site goes on serving what it has."
        )
    if agent.rotate_by is not None and agent.rotate_by < now:
        said.append(
            f"A new key was asked for until {agent.rotate_by:%Y-%m-%d %H:%M} UTC and the agent has "
            "not made one: it has not logged in since, or is too old to know how."
        )
    return said
