"""What loading builds was seen to take, on which hardware: the largest of each that was reported.

A row changes only when more was seen than before; a site that says the same again costs a read. A
figure that its own machine could not hold is not believed: it would move the builds of others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from django.db import transaction
from django.db.models import Max, Sum

from controlplane.catalog.models import LearnedFootprint
from controlplane.domain.fit_facts import Footprint
from controlplane.domain.selector import NO_HARDWARE
from controlplane.fleet.models import Accelerator, Server

MAX_HARDWARE = 500  # the column's


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What an agent measured of a load (docs/agent-protocol.md, section 5). None: nobody could."""

    load_seconds: float | None = None
    memory_bytes: int | None = None
    accelerator_memory_bytes: int | None = None


_FIGURES = ("load_seconds", "memory_bytes", "accelerator_memory_bytes")


def hardware_key(hardware: str) -> str:
    """As rows name hardware: nothing for a site without accelerators."""
    return "" if hardware == NO_HARDWARE else hardware[:MAX_HARDWARE]


def learn(*, seen: Mapping[str, Learned], hardware: str, site_id: int, now: datetime) -> None:
    """Notes what these builds, by the digest of their manifest, took at this site's hardware."""
    if not seen:
        return
    key = hardware_key(hardware)
    rows = LearnedFootprint.objects.filter(manifest_digest__in=seen, hardware=key)
    known = {row.manifest_digest: row for row in rows}
    for digest, learned in sorted(seen.items()):
        row = known.get(digest)
        if row is None or _grows(row, learned):
            learned = _possible(learned, site_id)
        if row is None and any(getattr(learned, name) is not None for name in _FIGURES):
            row, _ = LearnedFootprint.objects.get_or_create(
                manifest_digest=digest, hardware=key, defaults={"learned_at": now}
            )
        if row is not None and _grows(row, learned):
            _raise(row.pk, learned, now)


def _possible(learned: Learned, site_id: int) -> Learned:
    """Without what is more than the site's machines have, as far as they told."""
    memory = Server.objects.filter(site=site_id).aggregate(most=Max("memory_bytes"))["most"]
    cards = Accelerator.objects.filter(server__site=site_id).aggregate(most=Sum("memory_bytes"))
    return replace(
        learned,
        memory_bytes=_within(learned.memory_bytes, memory),
        accelerator_memory_bytes=_within(learned.accelerator_memory_bytes, cards["most"]),
    )


def _within(said: int | None, most: int | None) -> int | None:
    return None if said is None or (most is not None and said > most) else said


def _raise(pk: int, learned: Learned, now: datetime) -> None:
    """Two sites may report at once: the row is read again under its lock."""
    with transaction.atomic():
        row = LearnedFootprint.objects.select_for_update().get(pk=pk)
        for name in _FIGURES:
            said, before = getattr(learned, name), getattr(row, name)
            if said is not None and (before is None or said > before):
                setattr(row, name, said)
        row.learned_at = now
        row.save(update_fields=[*_FIGURES, "learned_at"])


def _grows(row: LearnedFootprint, learned: Learned) -> bool:
    return any(
        said is not None and (getattr(row, name) is None or said > getattr(row, name))
        for name in _FIGURES
        for said in [getattr(learned, name)]
    )


def footprints_of(digests: Iterable[str]) -> dict[str, dict[str, Footprint]]:
    """By manifest digest, then by hardware; one query, none where nothing is asked for."""
    wanted = set(digests)
    found: dict[str, dict[str, Footprint]] = {}
    if not wanted:
        return found
    rows = LearnedFootprint.objects.filter(manifest_digest__in=wanted).order_by()
    for digest, hardware, memory, accelerator in rows.values_list(
        "manifest_digest", "hardware", "memory_bytes", "accelerator_memory_bytes"
    ):
        found.setdefault(digest, {})[hardware] = Footprint(
            memory_bytes=memory, accelerator_memory_bytes=accelerator
        )
    return found
