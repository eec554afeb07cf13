"""What an agent says about its machine. Keeps it as it was said: unknown stays null."""

from dataclasses import dataclass
from datetime import datetime

from controlplane.fleet.identity import Caller
from controlplane.fleet.models import Accelerator, Server


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
class MachineFacts:
    """A server as reported. `accelerators` is None when the agent could not look."""

    hostname: str
    cpu_count: int | None = None
    memory_bytes: int | None = None
    disk_free_bytes: int | None = None
    python_version: str = ""
    accelerators: tuple[AcceleratorFacts, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class TritonFacts:
    """Triton as the agent sees it."""

    live: bool | None
    version: str = ""
    http_url: str = ""


def record_triton(*, caller: Caller, triton: TritonFacts, now: datetime) -> None:
    """Updates Triton's facts on the server the agent named before, if it did."""
    Server.objects.filter(site_id=caller.site_id).update(
        triton_live=triton.live,
        triton_version=triton.version,
        triton_http_url=triton.http_url,
        reported_at=now,
    )


def record_machine(*, caller: Caller, machine: MachineFacts, now: datetime) -> None:
    """Replaces what was known of the server by what is reported now."""
    server, _ = Server.objects.update_or_create(
        site_id=caller.site_id,
        hostname=machine.hostname,
        defaults={
            "cpu_count": machine.cpu_count,
            "memory_bytes": machine.memory_bytes,
            "disk_free_bytes": machine.disk_free_bytes,
            "python_version": machine.python_version,
            "reported_at": now,
        },
    )
    if machine.accelerators is None:
        return
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
