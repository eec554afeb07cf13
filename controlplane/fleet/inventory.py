"""What an agent says about its machine. Keeps it as it was said: unknown stays null."""

from dataclasses import asdict, dataclass
from datetime import datetime

from controlplane.fleet.identity import Caller
from controlplane.fleet.models import Accelerator, Agent, Server


@dataclass(frozen=True, kw_only=True)
class AcceleratorFacts:
    """One accelerator as reported."""

    uuid: str
    name: str
    memory_bytes: int | None = None
    compute_capability: str = ""
    driver_version: str = ""
    power_limit_watts: float | None = None


@dataclass(frozen=True, kw_only=True)
class TritonServerFacts:
    """One Triton of a machine; `name` is empty where there is one alone. None: not reported."""

    name: str
    live: bool | None = None
    version: str = ""
    http_url: str = ""
    models: tuple[str, ...] | None = None
    extensions: tuple[str, ...] | None = None
    backends: tuple[str, ...] | None = None
    tensorrt: str = ""


@dataclass(frozen=True, kw_only=True)
class TrustFacts:
    """What an agent does with unsigned versions, and the fingerprints (SHA-256, hex) of the release
    keys that it trusts."""

    unsigned: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """A server as reported. `accelerators` is None when the agent could not look, `booted_at` by
    the machine's own clock. `executable_allowed` and `trust` are what the agent's own configuration
    says, which nobody can change from here; None: it did not say."""

    hostname: str
    cpu_count: int | None = None
    memory_bytes: int | None = None
    disk_total_bytes: int | None = None
    disk_free_bytes: int | None = None
    booted_at: datetime | None = None
    python_version: str = ""
    # Of the way to here, as the agent measured it.
    download_bytes_per_second: float | None = None
    round_trip_seconds: float | None = None
    tritons: tuple[TritonServerFacts, ...] | None = None
    accelerators: tuple[AcceleratorFacts, ...] | None = None
    executable_allowed: bool | None = None
    trust: TrustFacts | None = None


@dataclass(frozen=True, kw_only=True)
class TritonFacts:
    """Triton as the agent sees it."""

    live: bool | None
    version: str = ""
    http_url: str = ""


def record_triton(*, caller: Caller, triton: TritonFacts, now: datetime) -> None:
    """Updates Triton's facts on the server the agent named before, if it did. While it does not
    answer, the version that it last named stays: plans go by it."""
    named = {"triton_version": triton.version} if triton.version else {}
    Server.objects.filter(site_id=caller.site_id).update(
        triton_live=triton.live,
        triton_http_url=triton.http_url,
        reported_at=now,
        **named,
    )


def record_rules(*, caller: Caller, machine: MachineFacts) -> None:
    """What the agent's own configuration allows and trusts; written only where it is another than
    before. An agent that says nothing of it (an older one) changes nothing."""
    said: dict[str, object] = {}
    if machine.executable_allowed is not None:
        said["executable_allowed"] = machine.executable_allowed
    if machine.trust is not None:
        said["trust"] = {"unsigned": machine.trust.unsigned, "keys": list(machine.trust.keys)}
    if not said:
        return
    rows = Agent.objects.filter(pk=caller.agent_id)
    before: dict[str, object] = dict(rows.values("executable_allowed", "trust").first() or {})
    changed = {key: value for key, value in said.items() if before.get(key) != value}
    if changed:
        rows.update(**changed)


def renew_triton(*, caller: Caller, now: datetime) -> None:
    """What was said of Triton before still holds."""
    Server.objects.filter(site_id=caller.site_id).update(reported_at=now)


def record_machine(*, caller: Caller, machine: MachineFacts, now: datetime) -> None:
    """Replaces what was known of the server by what is reported now."""
    server, _ = Server.objects.update_or_create(
        site_id=caller.site_id,
        hostname=machine.hostname,
        defaults={
            "cpu_count": machine.cpu_count,
            "memory_bytes": machine.memory_bytes,
            "disk_total_bytes": machine.disk_total_bytes,
            "disk_free_bytes": machine.disk_free_bytes,
            "booted_at": machine.booted_at,
            "download_bytes_per_second": machine.download_bytes_per_second,
            "round_trip_seconds": machine.round_trip_seconds,
            "tritons": None
            if machine.tritons is None
            else [asdict(triton) for triton in machine.tritons],
            "python_version": machine.python_version,
            "reported_at": now,
        },
    )
    if machine.accelerators is None:
        return  # what was known of them may still be so
    server.accelerator_count = len(machine.accelerators)
    server.save(update_fields=["accelerator_count"])
    server.accelerators.exclude(uuid__in=[a.uuid for a in machine.accelerators]).delete()
    for facts in machine.accelerators:
        Accelerator.objects.update_or_create(
            server=server,
            uuid=facts.uuid,
            defaults={
                "name": facts.name,
                "memory_bytes": facts.memory_bytes,
                "compute_capability": facts.compute_capability,
                "driver_version": facts.driver_version,
                "power_limit_watts": facts.power_limit_watts,
            },
        )
