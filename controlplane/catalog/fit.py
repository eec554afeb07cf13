"""What fit is judged by, read from rows: the facts of sites, and what each build of a version asks.

Reads only; a constant number of queries, however many sites there are. What is loaded at a site it
is told by its caller: it must not know where a version runs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controlplane.catalog.footprints import footprints_of, hardware_key
from controlplane.catalog.models import ContentClass, Variant, Version, VersionSignature
from controlplane.catalog.variants import variants_by_version
from controlplane.domain.fit_facts import (
    Demand,
    Gpu,
    Loaded,
    Machine,
    Profile,
    SiteFacts,
    Triton,
)
from controlplane.domain.selector import AND
from controlplane.domain.variants import Offered
from controlplane.fleet.models import Accelerator, Agent, Server, Site

# How long a word of a site's own may be in a sentence.
_WORDS = 200
# What is asked of a Triton.
_ASKED = ("version", "models", "backends", "tensorrt")


def offered_builds(version: Version) -> tuple[list[Offered], dict[str, Variant]]:
    """What each build asks for, and the builds by name. Three queries at most."""
    rows = variants_by_version([version.pk]).get(version.pk, [])
    learned = footprints_of(row.manifest_digest for row in rows)
    opaque = any(row.content_class == ContentClass.OPAQUE for row in rows)
    signed_by = _signed_by(version) if opaque else frozenset()
    offered = [
        Offered(
            name=row.name,
            priority=row.priority,
            demand=Demand(
                model=version.model.name,
                size_bytes=row.size_bytes,
                requires=row.manifest.get("requires", {}),
                content_class=row.content_class,
                learned=learned.get(row.manifest_digest, {}),
                signed_by=signed_by,
            ),
        )
        for row in rows
    ]
    return offered, {row.name: row for row in rows}


def _signed_by(version: Version) -> frozenset[str]:
    rows = VersionSignature.objects.filter(version=version, key__revoked_at=None).order_by()
    return frozenset(rows.values_list("key__fingerprint", flat=True))


def asks_machines(builds: Iterable[Offered]) -> bool:
    """Whether more than the disk of a site must be known to choose among these."""
    return any(build.demand.asks_machines for build in builds)


def facts_by_site(
    site_ids: Sequence[int] | None = None,
    *,
    loaded: Mapping[int, tuple[Loaded, ...]] | None = None,
) -> dict[int, list[SiteFacts]]:
    """By site id the facts of its servers; of all sites that are not retired, or of these. One that
    has told of no server has one of which nothing is known. Four queries."""
    said = loaded or {}
    servers = Server.objects.order_by("site_id", "hostname")
    cards = Accelerator.objects.order_by("server_id", "uuid")
    agents = Agent.objects.filter(revoked_at=None).order_by()
    rows = Site.objects.filter(retired_at=None).order_by()
    if site_ids is not None:
        ids = list(site_ids)
        rows, servers = rows.filter(pk__in=ids), servers.filter(site__in=ids)
        agents, cards = agents.filter(site__in=ids), cards.filter(server__site__in=ids)
    gpus: dict[int, list[Gpu]] = defaultdict(list)
    kinds: dict[tuple[Any, ...], Gpu] = {}
    for server_id, *figures in cards.values_list(
        "server_id", "name", "memory_bytes", "compute_capability", "driver_version"
    ):
        gpus[server_id].append(kinds.setdefault(tuple(figures), _gpu(*figures)))
    rules_of = {
        site_id: (allowed, frozenset((trust or {}).get("keys", ())))
        for site_id, allowed, trust in agents.values_list("site_id", "executable_allowed", "trust")
    }
    by_site: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for site_id, *facts in servers.values_list(
        "site_id",
        "pk",
        "memory_bytes",
        "disk_total_bytes",
        "disk_free_bytes",
        "accelerator_count",
        "tritons",
        "triton_version",
    ):
        by_site[site_id].append(tuple(facts))
    found: dict[int, list[SiteFacts]] = {}
    profiles: dict[tuple[Any, ...], Profile] = {}
    for pk, waiver, waived_by in rows.values_list("pk", "floor_waiver", "floor_waiver_by"):
        told = by_site.get(pk) or [(0, None, None, None, None, None, "")]
        # As a plan names it: all kinds of the site, in order.
        names = {gpu.name for server in told for gpu in gpus.get(server[0], ())}
        allowed, keys = rules_of.get(pk, (None, frozenset()))
        rules = (
            hardware_key(AND.join(sorted(names))),
            allowed,
            f"{waiver[:_WORDS]} ({waived_by})" if waiver else "",
            keys,
            said.get(pk, ()),
        )
        for server_id, memory, total, free, count, listed, version in told:
            cards_here = _gpus(gpus.get(server_id, []), count)
            key = (memory, cards_here, _text_of(listed), version, rules)
            profile = profiles.get(key)
            if profile is None:
                machine = Machine(
                    memory_bytes=memory, gpus=cards_here, tritons=_tritons(listed, version)
                )
                profile = profiles[key] = _profile(machine, *rules)
            found.setdefault(pk, []).append(
                SiteFacts(profile=profile, disk_total_bytes=total, disk_free_bytes=free)
            )
    return found


def _profile(
    machine: Machine,
    hardware: str,
    allowed: bool | None,
    waiver: str,
    keys: frozenset[str],
    loaded: tuple[Loaded, ...],
) -> Profile:
    return Profile(
        machine=machine,
        hardware=hardware,
        executable_allowed=allowed,
        floor_waiver=waiver,
        trusted_keys=keys,
        loaded=loaded,
    )


def _text_of(listed: list[dict[str, Any]] | None) -> str:
    """What a Triton is asked for, as something that compares: whether it lives changes nothing."""
    if not listed:
        return ""
    return repr([[entry.get(name) for name in _ASKED] for entry in listed])


def _gpu(name: Any, memory: Any, capability: Any, driver: Any) -> Gpu:
    return Gpu(name=name, memory_bytes=memory, compute_capability=capability, driver=driver)


def _gpus(seen: Sequence[Gpu], count: int | None) -> tuple[Gpu, ...] | None:
    """None: nobody could look; those that were seen before may still be there."""
    return tuple(seen) if seen or count == 0 else None


def _tritons(listed: list[dict[str, Any]] | None, version: str) -> tuple[Triton, ...]:
    """`version` is what the site's Triton said last, where the inventory has none."""
    if not listed:
        return (Triton(version=version),)
    return tuple(
        Triton(
            version=entry.get("version") or (version if len(listed) == 1 else ""),
            models=None if entry.get("models") is None else tuple(entry["models"]),
            backends=None if entry.get("backends") is None else frozenset(entry["backends"]),
            tensorrt=entry.get("tensorrt") or "",
        )
        for entry in listed
    )
