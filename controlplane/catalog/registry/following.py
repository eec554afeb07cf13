"""Which channels follow a version of a registry, as its row has it: those that wait for it, since
when, and those that were moved to it. Marks are kept among what was told; no tag is named so."""

from collections.abc import Mapping

from controlplane.catalog.models import ImportedVersion, RegistryLink


def moved_mark(channel: str) -> str:
    """This channel was moved for this version, or a person had the last word."""
    return f"channel:{channel}"


def waits_mark(channel: str) -> str:
    """Since when this channel waits for this version."""
    return f"waits:{channel}"


def following(row: ImportedVersion) -> set[str]:
    """The channels that the last look found to lead here, whether they wait or were moved."""
    return {*row.channels} | {
        key.removeprefix("channel:") for key in row.told if key.startswith("channel:")
    }


def forget_channels(row: ImportedVersion, channels: set[str]) -> None:
    """They no longer follow this version. Call it with the row locked."""
    if not channels:
        return
    marks = {mark(name) for name in channels for mark in (moved_mark, waits_mark)}
    row.channels = [name for name in row.channels if name not in channels]
    row.told = {key: value for key, value in row.told.items() if key not in marks}
    if not row.channels and row.reason.startswith("Channel "):
        row.reason = ""
    row.save(update_fields=["channels", "told", "reason"])


def forget_unwatched(
    link: RegistryLink, before: Mapping[str, Mapping[str, str]], after: Mapping[str, object]
) -> None:
    """A changed link moves no channel for what other names led to. In the link's transaction."""
    if before == after:
        return
    now = _watchers(after)
    changed = {name for name, by in _watchers(before).items() if now.get(name) != by}
    for row in ImportedVersion.objects.select_for_update().filter(link=link):
        forget_channels(row, following(row) & changed)


def _watchers(watched: Mapping[str, object]) -> dict[str, set[tuple[str, str]]]:
    """By channel the names that move it."""
    found: dict[str, set[tuple[str, str]]] = {}
    for kind, names in watched.items():
        assert isinstance(names, Mapping)
        for name, channel in names.items():
            found.setdefault(channel, set()).add((kind, name))
    return found
