"""Versions from a registry: links, looks, imports and what is written back."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controlplane.audit.models import Event
from controlplane.catalog.channels import move_channel
from controlplane.catalog.models import Channel, ImportedVersion, RegistryLink, Version
from controlplane.catalog.registry import Away, Refused, Unavailable
from controlplane.catalog.registry.conversion import Converter
from controlplane.catalog.registry.importing import MAX_ATTEMPTS, RESERVE_BYTES, Importer
from controlplane.catalog.registry.linking import (
    RegistryUnavailable,
    ask_for_reconcile,
    import_version,
    link_model,
    only_link,
    unlink,
)
from controlplane.catalog.registry.turn import look_at_registries
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.telling import tell_outcomes
from tests.factories import (
    approve,
    make_joined_site,
    make_rollout,
    make_version,
    version_files,
)
from tests.services.fake_registry import FakeRegistry

pytestmark = pytest.mark.django_db
Turn = Callable[..., None]


@pytest.fixture
def registry() -> FakeRegistry:
    versions = {("iris", str(n)): version_files(f"v{n}") for n in (1, 2, 3)}
    return FakeRegistry(versions=versions)


@pytest.fixture
def turn(registry: FakeRegistry, now: datetime, settings: Any, tmp_path: Path) -> Turn:
    """A turn of the worker, so many minutes after the test began."""
    settings.DATA_DIR = tmp_path / "data"

    def run(minutes: float = 0, keep_going: Callable[[], bool] = lambda: True) -> None:
        look_at_registries(
            now=now + timedelta(minutes=minutes),
            keep_going=keep_going,
            source=registry,
            converting=Converter(),
        )

    return run


def link(now: datetime, **changes: Any) -> RegistryLink:
    known = {"model_name": "iris", "remote_name": "iris", "aliases": {}, "stages": {}}
    row, _ = link_model(**{**known, **changes}, actor="token:ann", person="ann", now=now)
    return row


def ask(registry: FakeRegistry, now: datetime, **which: str) -> ImportedVersion:
    row = RegistryLink.objects.get(remote_name="iris")
    found, _ = import_version(
        link=row, source=registry, actor="token:ann", now=now, **(which or {"version": "1"})
    )
    return found


def looked(row: ImportedVersion) -> ImportedVersion:
    row.refresh_from_db()
    return row


def test_a_version_comes_in_under_its_number(
    registry: FakeRegistry, turn: Turn, now: datetime, tmp_path: Path
) -> None:
    link(now)
    row = ask(registry, now, version="3")
    turn()
    row = looked(row)
    assert (row.state, row.reason, row.run_id) == ("imported", "", "run-1")
    version = row.version
    assert version is not None
    assert (version.number, version.author) == (3, "ann")
    assert version.lineage == {"mlflow_run": "run-1"}
    assert version.labels == {"mlflow": "iris/3"}
    assert registry.told == [
        ("iris", "3", {"waypost.version": "3", "waypost.state": version.state})
    ]
    assert list((tmp_path / "data" / "imports").iterdir()) == []
    actions = list(Event.objects.values_list("action", flat=True).order_by("pk"))
    assert actions[:3] == ["model.created", "registry_link.created", "import.asked"]
    assert "import.finished" in actions


def test_a_number_that_is_taken_gives_way(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    make_version("iris", now=now)
    link(now)
    row = ask(registry, now)
    turn()
    version = looked(row).version
    assert version is not None
    assert version.number == 2


def test_the_same_bytes_under_two_numbers_are_one_version(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    """Both numbers are told of it, whichever an alias leads to."""
    registry.versions["iris", "2"] = registry.versions["iris", "1"]
    registry.aliases["iris", "prod"] = "2"
    agent = make_joined_site("edge-1", now=now)
    link(now, aliases={"prod": "stable"})
    first, second = ask(registry, now), ask(registry, now, version="2")
    turn()
    version = approve(Version.objects.get(), now=now)
    for row in (first, second):
        assert (looked(row).state, row.version) == ("imported", version)
    make_rollout(RolloutState.SUCCEEDED, version=version, agents=[agent], now=now)
    tell_outcomes()
    registry.told.clear()
    turn(1)
    told = {"waypost.state": "approved", "waypost.rollout": "succeeded"}
    assert registry.told == [("iris", "1", told), ("iris", "2", told)]
    assert Channel.objects.get(name="stable").version == version
    assert set(version.imports.values_list("remote_version", flat=True)) == {"1", "2"}


def test_asked_again_nothing_is_fetched_again(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    link(now)
    ask(registry, now)
    turn()
    before = len(registry.calls)
    ask(registry, now)
    turn()
    assert [call for call in registry.calls[before:] if call.startswith("open")] == []


def test_what_breaks_off_goes_on_and_what_stays_broken_is_put_off(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    link(now)
    row = ask(registry, now)
    registry.trouble["open"] = [Unavailable("It broke off.")]
    turn()
    assert looked(row).state == "imported"
    assert "open config.pbtxt 5" in registry.calls

    second = ask(registry, now, version="2")
    registry.trouble["resolve"] = [Unavailable("It is down.")] * 2
    turn()
    second = looked(second)
    assert (second.state, second.reason, second.attempts) == ("importing", "It is down.", 1)
    calls = len(registry.calls)
    turn(0.1)
    assert "resolve" not in registry.calls[calls:], "it waits"
    turn(0.3)
    assert looked(second).attempts == 2
    turn(60)
    assert looked(second).state == "imported"


def test_after_so_many_attempts_it_has_failed_and_can_be_asked_for_again(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    link(now)
    row = ask(registry, now)
    registry.trouble["resolve"] = [Unavailable("It is down.")] * MAX_ATTEMPTS
    for hour in range(MAX_ATTEMPTS):
        assert looked(row).state != "failed"
        turn(61 * hour)
    row = looked(row)
    assert row.state == "failed"
    assert row.reason.startswith(f"After {MAX_ATTEMPTS} attempts")
    assert registry.told[-1][2]["waypost.state"] == "failed"
    ask(registry, now)
    turn(61 * MAX_ATTEMPTS)
    assert looked(row).state == "imported"
    assert registry.told[-1][2] == {"waypost.version": "1", "waypost.state": "validated"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"weights.bin": b"x"}, "neither MLmodel nor config.pbtxt"),
        ({"config.pbtxt": b"", "model.onnx": b"x"}, "no golden requests"),
        ({**version_files("a"), "libtriton_x.so": b"x"}, "libtriton_x.so"),
        ({**version_files("a"), ".hidden": b"x"}, ".hidden"),
        ({**version_files("a"), "config.pbtxt": b"nonsense {"}, "config.pbtxt"),
    ],
)
def test_what_cannot_be_a_version_fails_and_leaves_nothing(
    files: dict[str, bytes], said: str, registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    registry.versions["iris", "1"] = files
    link(now)
    row = ask(registry, now)
    turn()
    row = looked(row)
    assert row.state == "failed"
    assert said in row.reason
    assert not Version.objects.exists()
    assert said in registry.told[-1][2]["waypost.reason"]


def test_a_source_that_moves_is_refused(registry: FakeRegistry, turn: Turn, now: datetime) -> None:
    link(now)
    row = ask(registry, now)
    registry.trouble["files"] = [Unavailable("It is down.")]
    turn()
    assert looked(row).state == "importing"
    registry.sources["iris", "1"] = "models:/m-other"
    turn(1)
    assert looked(row).state == "failed"
    assert "models:/m-other" in looked(row).reason


def test_a_turn_that_ends_early_goes_on_from_what_it_has(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    link(now)
    row = ask(registry, now)
    for minute in range(5):
        turns = iter([True] * 4)
        turn(minute, keep_going=lambda turns=turns: next(turns, False))  # type: ignore[misc]
        if looked(row).state == "imported":
            break
    turn(10)
    assert looked(row).state == "imported"
    fetched = [call for call in registry.calls if call.startswith("open")]
    assert len(fetched) == len(set(fetched)) == 3


def test_without_room_it_waits(registry: FakeRegistry, now: datetime, tmp_path: Path) -> None:
    link(now)
    row = ask(registry, now)
    importer = Importer(
        source=registry,
        converter=Converter(),
        folder=tmp_path / "i",
        free=lambda _: RESERVE_BYTES,
    )
    importer.run(now=now, keep_going=lambda: True)
    assert looked(row).attempts == 1
    assert "bytes on the disk" in looked(row).reason


def test_an_alias_brings_in_its_version_and_moves_its_channel_once_approved(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    registry.aliases["iris", "prod"] = "1"
    link(now, aliases={"prod": "stable"})
    turn()
    first = Version.objects.get(number=1)
    assert not Channel.objects.exists(), "it waits for two people's yes"
    assert "approve" in ImportedVersion.objects.get().reason
    approve(first, now=now)
    turn(1)
    assert Channel.objects.get().version == first
    assert Channel.objects.get().person == "ann"
    registry.aliases["iris", "prod"] = "2"
    turn(5)
    approve(Version.objects.get(number=2), now=now)
    turn(6)
    assert Channel.objects.get().version.number == 2
    registry.aliases["iris", "prod"] = "1"
    turn(10)
    assert Channel.objects.get().version == first, "an alias that goes back leads back"


def test_a_person_who_moves_the_channel_is_not_overruled(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    other = approve(make_version("iris", now=now), now=now)
    registry.aliases["iris", "prod"] = "2"
    link(now, aliases={"prod": "stable"})
    turn()
    approve(Version.objects.get(number=2), now=now)
    turn(1)
    move_channel(
        model=other.model, name="stable", version=other, reason="ours", actor="user:bo",
        person="bo", now=now,
    )  # fmt: skip
    turn(5)
    turn(10)
    assert Channel.objects.get().version == other


def test_a_failed_version_is_not_tried_at_every_look(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    registry.versions["iris", "1"] = {"x": b"x"}
    registry.aliases["iris", "prod"] = "1"
    link(now, aliases={"prod": ""})
    turn()
    calls = registry.calls.count("files")
    turn(5)
    assert registry.calls.count("files") == calls == 1


def test_a_look_comes_by_the_clock_or_when_it_is_asked_for(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    link(now)
    turn()
    turn(1)
    assert registry.calls.count("watched") == 1
    assert ask_for_reconcile(remote_name="iris", now=now + timedelta(minutes=1))
    turn(1.1)
    turn(1.2)
    assert registry.calls.count("watched") == 2
    turn(3.2)
    assert registry.calls.count("watched") == 3
    assert not ask_for_reconcile(remote_name="unknown", now=now)


def test_a_look_that_fails_is_told_at_the_link_and_is_not_asked_for_at_once_again(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    row = link(now)
    registry.trouble["watched"] = [Unavailable("It is down.")] * 2
    turn()
    row.refresh_from_db()
    assert (row.failure, row.failed_since) == ("It is down.", now)
    ask_for_reconcile(remote_name="iris", now=now + timedelta(seconds=1))
    turn(1)
    assert registry.calls.count("watched") == 1
    turn(3)
    row.refresh_from_db()
    assert row.failed_since == now, "since when it fails"
    turn(6)
    row.refresh_from_db()
    assert (row.failure, row.failed_since) == ("", None)


def test_an_alias_is_looked_up_once_when_it_is_asked_for(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    registry.aliases["iris", "prod"] = "1"
    link(now)
    row = ask(registry, now, alias="prod")
    registry.aliases["iris", "prod"] = "2"
    turn()
    assert looked(row).remote_version == "1"
    assert looked(row).version.number == 1  # type: ignore[union-attr]  # it is imported


@pytest.mark.parametrize(
    "which",
    [{}, {"version": "1", "alias": "a"}, {"version": "01"}, {"alias": "a/b"}, {"stage": "Prod"}],
)
def test_what_to_import_must_be_clear(
    which: dict[str, str], registry: FakeRegistry, now: datetime
) -> None:
    row = link(now)
    with pytest.raises(InvalidInput):
        import_version(link=row, source=registry, actor="a", now=now, **which)
    assert registry.calls == []


def test_a_registry_that_is_down_is_no_fault_of_the_caller(
    registry: FakeRegistry, now: datetime
) -> None:
    link(now)
    registry.trouble["resolve"] = [Unavailable("It is down."), Refused("No such alias.")]
    with pytest.raises(RegistryUnavailable, match="is down"):
        ask(registry, now, alias="prod")
    with pytest.raises(InvalidInput, match="No such alias"):
        ask(registry, now, alias="prod")


@pytest.mark.parametrize(
    "wrong",
    [
        {"remote_name": "a/b"},
        {"remote_name": ""},
        {"remote_name": "a\0"},
        {"aliases": {"a b": ""}},
        {"aliases": {"a": "No Channel"}},
        {"stages": {"prod": "stable"}},
        {"aliases": {f"a{n}": "" for n in range(21)}},
    ],
)
def test_a_link_that_makes_no_sense_is_refused(wrong: dict[str, Any], now: datetime) -> None:
    with pytest.raises(InvalidInput) as raised:
        link(now, **wrong)
    assert raised.value.errors
    assert not RegistryLink.objects.exists()


def test_a_model_of_the_registry_is_followed_once(now: datetime) -> None:
    first = link(now)
    again, created = link_model(
        model_name="iris", remote_name="iris", aliases={"a": ""}, stages={}, actor="t", person="p",
        now=now,
    )  # fmt: skip
    assert (again.pk, created, again.aliases) == (first.pk, False, {"a": ""})
    with pytest.raises(Conflict, match="unlink it there"):
        link(now, model_name="other")
    unlink(link=again, actor="t", now=now)
    link(now, model_name="other")


def test_which_link_is_meant(now: datetime) -> None:
    model = link(now).model
    link(now, remote_name="more")
    assert only_link(model, "more").remote_name == "more"
    with pytest.raises(Conflict, match="several"):
        only_link(model)
    with pytest.raises(Conflict, match="link it first"):
        only_link(model, "none")


def test_what_the_rollout_comes_to_is_written_back(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    make_joined_site("edge-1", now=now)
    link(now)
    ask(registry, now)
    turn()
    version = approve(Version.objects.get(), now=now)
    rollout = make_rollout(version=version, now=now)
    tell_outcomes()
    turn(1)
    assert registry.told[-1][2] == {"waypost.state": "approved", "waypost.rollout": rollout.state}
    rollout.state = RolloutState.SUCCEEDED
    rollout.save()
    tell_outcomes()
    registry.trouble["tell"] = [Away("It is down.")]
    turn(2)
    turn(3)
    assert registry.told[-1] == ("iris", "1", {"waypost.rollout": "succeeded"})
    told = len(registry.told)
    tell_outcomes()
    turn(4)
    assert len(registry.told) == told


def test_a_version_that_is_gone_there_is_told_no_more(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    link(now)
    ask(registry, now)
    registry.trouble["tell"] = [Refused("It is gone.")]
    turn()
    turn(1)
    assert registry.calls.count("tell") == 1


def test_nothing_is_asked_where_no_registry_is_set_up(now: datetime, settings: Any) -> None:
    settings.WAYPOST_MLFLOW_URL = ""
    look_at_registries(now=now, keep_going=lambda: True)


def test_a_channel_does_not_follow_what_was_taken_back_before_it_was_approved(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    registry.aliases["iris", "prod"] = "1"
    link(now, aliases={"prod": "stable"})
    turn()
    del registry.aliases["iris", "prod"]
    turn(5)
    approve(Version.objects.get(number=1), now=now)
    turn(6)
    assert not Channel.objects.exists()


def test_a_person_who_moves_the_channel_while_it_waits_has_the_last_word(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    other = approve(make_version("iris", now=now), now=now)
    registry.aliases["iris", "prod"] = "2"
    link(now, aliases={"prod": "stable"})
    turn()
    move_channel(
        model=other.model, name="stable", version=other, reason="ours", actor="user:bo",
        person="bo", now=now + timedelta(minutes=1),
    )  # fmt: skip
    approve(Version.objects.get(number=2), now=now)
    for minute in (2, 5, 10):
        turn(minute)
    assert Channel.objects.get().version == other


@pytest.mark.parametrize("changed", [{"prod": ""}, {"beta": "stable"}, {}])
def test_a_link_that_no_longer_moves_the_channel_moves_it_no_more(
    changed: dict[str, str], registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    registry.aliases["iris", "prod"] = "1"
    link(now, aliases={"prod": "stable"})
    turn()
    approve(Version.objects.get(number=1), now=now)
    link(now + timedelta(minutes=1), aliases=changed)
    assert ImportedVersion.objects.get().channels == []
    turn(2)
    assert not Channel.objects.exists()


def test_a_version_that_cannot_be_told_keeps_no_other_waiting(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    link(now)
    ask(registry, now)
    ask(registry, now, version="2")
    registry.trouble["tell"] = [Unavailable("It answered 403.")]
    turn()
    assert [number for _, number, _ in registry.told] == ["2"]
    turn(1)
    assert len(registry.told) == 1, "it has a pause"
    turn(11)
    assert [number for _, number, _ in registry.told] == ["2", "1"]


def test_who_asked_for_a_version_is_its_author(
    registry: FakeRegistry, turn: Turn, now: datetime
) -> None:
    link(now)
    import_version(
        link=RegistryLink.objects.get(remote_name="iris"),
        version="1",
        source=registry,
        actor="token:mallory",
        person="mallory",
        now=now,
    )

    turn()

    assert Version.objects.get(model__name="iris").author == "mallory"
