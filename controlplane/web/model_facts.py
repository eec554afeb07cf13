"""What the pages of models show beyond their own rows: versions with who approved and where they
are served, channels, and what came of a registry. A fixed number of queries, however many versions
and sites there are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery, Sum

from controlplane.catalog.models import (
    Channel,
    ImportedVersion,
    ImportState,
    Model,
    RegistryLink,
    Version,
    VersionState,
)
from controlplane.catalog.signatures import signature_standing
from controlplane.rollouts.models import SiteModel
from controlplane.web.version_facts import approvals_word

IMPORTS_SHOWN = 10
FAILURES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ModelLine:
    """A row of the list. `newest` and `approved` may be the same version, or None."""

    model: Model
    newest: Version | None
    approved: Version | None
    channels: tuple[Channel, ...]
    serving: int


@dataclass(frozen=True, kw_only=True)
class VersionLine:
    """A row of the page of a model."""

    version: Version
    approvals: str
    signed_by: str
    channels: tuple[str, ...]
    serving: int


@dataclass(frozen=True, kw_only=True)
class LinkLine:
    """A registry that the model follows. `counts` is of imports by state."""

    link: RegistryLink
    moves: tuple[str, ...]
    counts: Mapping[str, int]
    failed: tuple[ImportedVersion, ...]
    newest: tuple[ImportedVersion, ...]


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a model's quotas are held against."""

    versions: int
    bytes: int


def models_for_list() -> QuerySet[Model]:
    rows = Version.objects.filter(model=OuterRef("pk")).order_by("-number").values("pk")
    approved = rows.filter(state=VersionState.APPROVED)
    return Model.objects.annotate(
        newest_id=Subquery(rows[:1]), approved_id=Subquery(approved[:1])
    ).order_by("name")


def model_lines(models: Sequence[Model]) -> list[ModelLine]:
    """Of the models of one page, as `models_for_list` reads them; three queries."""
    pairs = [(getattr(row, "newest_id", None), getattr(row, "approved_id", None)) for row in models]
    wanted = {pk for pair in pairs for pk in pair if pk is not None}
    versions = Version.objects.select_related("model").defer("manifest").in_bulk(wanted)
    channels: dict[int, list[Channel]] = {}
    for channel in Channel.objects.filter(model__in=models).select_related("version"):
        channels.setdefault(channel.model_id, []).append(channel)
    rows = _served().filter(model__in=models).values_list("model_id")
    serving = dict(rows.annotate(count=Count("site_id", distinct=True)))
    return [
        ModelLine(
            model=model,
            newest=versions.get(newest),
            approved=versions.get(approved),
            channels=tuple(channels.get(model.pk, ())),
            serving=serving.get(model.pk, 0),
        )
        for model, (newest, approved) in zip(models, pairs, strict=True)
    ]


def _served() -> QuerySet[SiteModel]:
    """Where something is served, at sites in service."""
    rows = SiteModel.objects.filter(reported_serving__isnull=False, site__retired_at=None)
    return rows.order_by()


def versions_for_page(model: Model) -> QuerySet[Version]:
    """Newest first, with what a row of them reads."""
    rows = Version.objects.filter(model=model).select_related("model").defer("manifest")
    return rows.prefetch_related("approvals", "signatures__key").order_by("-number")


def version_lines(
    model: Model, versions: Sequence[Version], channels: Iterable[Channel]
) -> list[VersionLine]:
    numbers = [version.number for version in versions]
    rows = _served().filter(model=model, reported_serving__in=numbers)
    serving = dict(rows.values_list("reported_serving").annotate(count=Count("pk")))
    at: dict[int | None, list[str]] = {}
    for channel in channels:
        at.setdefault(channel.version_id, []).append(channel.name)
    return [
        VersionLine(
            version=version,
            approvals=approvals_word(version),
            signed_by=", ".join(signature_standing(version).signed_by),
            channels=tuple(at.get(version.pk, ())),
            serving=serving.get(version.number, 0),
        )
        for version in versions
    ]


def used_of(model: Model) -> Used:
    held = Version.objects.filter(model=model).order_by()
    found = held.aggregate(count=Count("pk"), size=Sum("size_bytes"))
    return Used(versions=found["count"], bytes=found["size"] or 0)


def approved_numbers(model: Model) -> list[int]:
    """Newest first."""
    rows = Version.objects.filter(model=model, state=VersionState.APPROVED).order_by("-number")
    return list(rows.values_list("number", flat=True))


def link_lines(model: Model) -> list[LinkLine]:
    """Five queries at most, however many links and imports."""
    links = list(RegistryLink.objects.filter(model=model).order_by("remote_name", "pk"))
    if not links:
        return []
    rows = ImportedVersion.objects.filter(link__in=links)
    counts: dict[int, dict[str, int]] = {}
    grouped = rows.order_by().values_list("link_id", "state").annotate(count=Count("pk"))
    for link_id, state, count in grouped:
        counts.setdefault(link_id, {})[state] = count
    newest_first = rows.select_related("version").order_by("-asked_at", "-pk")
    failed = list(newest_first.filter(state=ImportState.FAILED)[:FAILURES_SHOWN])
    newest = list(newest_first.filter(~Q(state=ImportState.FAILED))[:IMPORTS_SHOWN])
    return [
        LinkLine(
            link=link,
            moves=_moves(link),
            counts=counts.get(link.pk, {}),
            failed=tuple(row for row in failed if row.link_id == link.pk),
            newest=tuple(row for row in newest if row.link_id == link.pk),
        )
        for link in links
    ]


def _moves(link: RegistryLink) -> tuple[str, ...]:
    watched = [("alias", link.aliases), ("stage", link.stages)]
    return tuple(
        f"{kind} {name} moves channel {channel}" if channel else f"{kind} {name} is brought in"
        for kind, names in watched
        for name, channel in sorted(names.items())
    )
