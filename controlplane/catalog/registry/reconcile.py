"""Looks at what the watched aliases and stages of linked models lead to, asks for versions that are
not here, and moves the channels that follow them. The tick is what counts; a webhook only has it
come sooner.

A channel moves when its alias moves, not while it stays: a person who moves the channel here is not
overruled by the next look. What a name no longer leads to is no longer followed, and whoever moves
the channel while it waits has the last word."""

from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import F, Q

from controlplane.catalog.channels import move_channel
from controlplane.catalog.models import Channel, ImportedVersion, ImportState, RegistryLink
from controlplane.catalog.registry import RegistryError, RegistrySource
from controlplane.catalog.registry.creating import ACTOR
from controlplane.catalog.registry.fetching import KeepGoing
from controlplane.catalog.registry.following import (
    following,
    forget_channels,
    moved_mark,
    waits_mark,
)
from controlplane.catalog.registry.linking import want_version
from controlplane.domain.errors import WaypostError

_log = structlog.get_logger(__name__)

CLAIM = timedelta(minutes=5)


def reconcile_links(
    *, source: RegistrySource, every: timedelta, now: datetime, keep_going: KeepGoing
) -> None:
    """Looks at each link that is due: asked for, or not looked at for so long."""
    while keep_going() and (link := _claim(now, every)) is not None:
        failure = ""
        try:
            _look(link, source, now)
        except RegistryError as error:
            failure = str(error)
        except Exception as error:
            _log.exception("registry_look_failed", link=link.pk)
            failure = f"The look broke off: {type(error).__name__}."
        _settle(link, failure, now)


def move_followers(*, now: datetime) -> None:
    """Moves the channels that wait for a version: it must be here, and approved."""
    rows = ImportedVersion.objects.filter(state=ImportState.IMPORTED).exclude(channels=[])
    for row in rows.select_related("link__model", "version"):
        try:
            _move(row, now)
        except Exception:
            _log.exception("registry_channel_failed", row=row.pk)


def _look(link: RegistryLink, source: RegistrySource, now: datetime) -> None:
    """One answer of the registry decides: what an alias leads to a moment later is for the next
    look."""
    found = source.watched(link.remote_name, aliases=list(link.aliases), stages=list(link.stages))
    led = [(found.aliases.get(alias), channel) for alias, channel in link.aliases.items()]
    led += [(found.stages.get(stage), channel) for stage, channel in link.stages.items()]
    known = [(number, channel) for number, channel in led if number is not None]
    leads: dict[str, str] = {}
    for number, channel in known:
        leads.setdefault(channel, number)  # two names for one channel: the first counts
    with transaction.atomic():
        same = RegistryLink.objects.select_for_update().filter(pk=link.pk)
        if not same.filter(aliases=link.aliases, stages=link.stages).exists():
            return  # changed while the registry was asked; the change asked for a look of its own
        for row in ImportedVersion.objects.select_for_update().filter(link=link):
            forget_channels(
                row, {name for name in following(row) if leads.get(name) != row.remote_version}
            )
        for number, channel in known:
            _follow(link, number, channel if leads[channel] == number else "", now)


def _follow(link: RegistryLink, number: str, channel: str, now: datetime) -> None:
    known = ImportedVersion.objects.filter(link=link, remote_version=number).first()
    # A version that failed is tried again when somebody asks for it, not at every look.
    row = known or want_version(link=link, number=number, actor=ACTOR, now=now)[0]
    if not channel or _leads(row, channel):
        return
    row.refresh_from_db()
    row.channels = [*row.channels, channel]
    row.told = {**row.told, waits_mark(channel): now.isoformat()}
    row.save(update_fields=["channels", "told"])


def _leads(row: ImportedVersion, channel: str) -> bool:
    """Whether the last look found the same: the channel waits for this version, or was moved."""
    return channel in following(row)


@transaction.atomic
def _move(waiting: ImportedVersion, now: datetime) -> None:
    rows = ImportedVersion.objects.select_for_update(of=("self",))
    row = rows.select_related("link__model", "version").get(pk=waiting.pk)
    version = row.version
    if version is None:
        return
    for channel in list(row.channels):
        if _overruled(row, channel):
            _settle_channel(row, channel, "overruled")
            continue
        try:
            with transaction.atomic():
                move_channel(
                    model=row.link.model,
                    name=channel,
                    version=version,
                    reason=f"its alias in MLflow moved to version {row.remote_version}",
                    actor=ACTOR,
                    person=row.link.person,
                    now=now,
                )
        except WaypostError as error:
            row.reason = f"Channel {channel} waits: {error.detail}"[:1000]
            continue
        _settle_channel(row, channel, "moved")
    if not row.channels and row.reason.startswith("Channel "):
        row.reason = ""
    row.save(update_fields=["channels", "told", "reason"])


def _overruled(row: ImportedVersion, channel: str) -> bool:
    """Whether somebody moved the channel after it was noted to follow. Locks it until the move."""
    noted = row.told.get(waits_mark(channel))
    since = datetime.fromisoformat(noted) if noted else row.asked_at
    found = Channel.objects.select_for_update().filter(model=row.link.model, name=channel).first()
    return found is not None and found.moved_at is not None and found.moved_at > since


def _settle_channel(row: ImportedVersion, channel: str, how: str) -> None:
    row.channels = [name for name in row.channels if name != channel]
    told = {key: value for key, value in row.told.items() if key != waits_mark(channel)}
    row.told = {**told, moved_mark(channel): how}


def _claim(now: datetime, every: timedelta) -> RegistryLink | None:
    free = Q(claimed_until=None) | Q(claimed_until__lt=now)
    due = Q(wanted_at__isnull=False) | Q(checked_at=None) | Q(checked_at__lte=now - every)
    # After a failure the next regular look is soon enough, whoever asks.
    calm = Q(failed_since=None) | Q(checked_at__lte=now - every)
    rows = RegistryLink.objects.filter(free, due, calm).select_related("model")
    # One that was looked at in this very turn is not due again.
    fresh = rows.exclude(checked_at__gte=now)
    for link in fresh.order_by(F("checked_at").asc(nulls_first=True), "pk")[:10]:
        same = RegistryLink.objects.filter(pk=link.pk, claimed_until=link.claimed_until)
        if same.update(claimed_until=now + CLAIM):
            return link
    return None


def _settle(link: RegistryLink, failure: str, now: datetime) -> None:
    """What was asked for after this look began stays asked for."""
    rows = RegistryLink.objects.filter(pk=link.pk)
    since = (link.failed_since or now) if failure else None
    rows.update(checked_at=now, failed_since=since, failure=failure[:500], claimed_until=None)
    if link.wanted_at is not None:
        rows.filter(wanted_at=link.wanted_at).update(wanted_at=None)
