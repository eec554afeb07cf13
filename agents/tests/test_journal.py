"""What is written is durable when it counts, read back the same, and survives being cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from versions import make_version, wish
from waypost_agent import situation as sit
from waypost_agent.durable import write_durably
from waypost_agent.errors import Retryable
from waypost_agent.journal import Held, Journal
from waypost_agent.protocol import Desired, parse_desired

ONE = sit.Target(version="1", digest="sha256:" + "1" * 64)
TWO = sit.Target(version="2", digest="sha256:" + "2" * 64)
FULL = sit.Record(
    committed=ONE,
    previous=TWO,
    proven=frozenset({ONE.digest, TWO.digest}),
    failed=sit.Failure(
        epoch=1, generation=7, target=TWO, reason_code="load-failed", reason="it \n"
    ),
    attempts=sit.Attempts(epoch=1, generation=7, target=TWO, count=3),
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal")
    journal.prepare()
    return journal


def desired(generation: int, *models: str) -> Desired:
    entries = [wish(make_version("1"), generation=generation, model=name) for name in models]
    return parse_desired(
        {"epoch": 1, "generation": generation, "site": "edge-1", "models": entries}
    )


def test_a_record_is_read_back_the_same(journal: Journal) -> None:
    journal.save("m", FULL)
    assert journal.load("m") == FULL
    journal.save("m", sit.Record())
    assert journal.load("m") == sit.Record()
    assert journal.models() == {"m"}


def test_a_model_named_like_a_file_of_ours_is_no_trouble(journal: Journal) -> None:
    journal.save_held(Held(desired=desired(1, "desired")), "edge-1")
    journal.save("desired", FULL)
    assert journal.load("desired") == FULL
    assert journal.load_held("edge-1") is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"committed": 1}', "\x00\x00", '{"proven": []}'])
def test_a_damaged_record_is_set_aside_and_counts_as_empty(
    journal: Journal, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "journal/models/m.json"
    path.write_text(text)
    assert journal.load("m") == sit.Record()
    assert path.with_name("m.json.damaged").read_text() == text
    assert journal.models() == frozenset()


def test_a_wish_keeps_that_it_requires_a_lease_also_when_it_is_spoken_of_no_more(
    journal: Journal,
) -> None:
    entries = [wish(make_version("1"), generation=3, model=name) for name in ("a", "b")]
    entries[0]["lease_required"] = True
    first = parse_desired({"epoch": 1, "generation": 3, "site": "edge-1", "models": entries})
    for held in (Held(desired=first), Held(desired=first).followed_by(desired(4, "c"))):
        journal.save_held(held, "edge-1")
        again = journal.load_held("edge-1")
        assert again is not None
        kept = [*again.desired.models, *(entry for _, entry in again.absent)]
        assert {e.model for e in kept if e.lease_required} == {"a"}


def test_the_wishes_are_read_back_the_same(journal: Journal) -> None:
    held = Held(desired=desired(3, "a", "b")).followed_by(desired(4, "b"))
    assert [entry.model for _, entry in held.absent] == ["a"]
    journal.save_held(held, "edge-1")
    again = journal.load_held("edge-1")
    assert again is not None
    assert again.pair == (1, 4)
    assert [(epoch, w.model, w.manifest) for epoch, w in again.absent] == [
        (epoch, w.model, w.manifest) for epoch, w in held.absent
    ]
    assert again.desired == held.desired


def test_a_model_named_again_is_no_longer_absent() -> None:
    held = Held(desired=desired(3, "a", "b")).followed_by(desired(4, "b"))
    assert held.followed_by(desired(5, "a")).absent[0][1].model == "b"
    assert len(held.followed_by(desired(5, "a", "b")).absent) == 0


def test_the_wishes_of_another_centre_are_not_ours(journal: Journal) -> None:
    journal.save_held(Held(desired=desired(3, "a")), "edge-1 at https://one")
    assert journal.load_held("edge-1 at https://two") is None


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def note(name: str) -> Any:
        original = getattr(os, name)

        def call(*arguments: Any) -> Any:
            if name == "fsync":
                target = os.readlink(f"/proc/self/fd/{arguments[0]}")
                order.append(f"fsync {Path(target).name}")
            else:
                order.append(f"rename {Path(arguments[0]).name} {Path(arguments[1]).name}")
            return original(*arguments)

        return call

    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", note("fsync"))
    monkeypatch.setattr(os, "rename", note("rename"))
    write_durably(folder / "record.json", b"{}")
    assert order == [
        "fsync .folder.record.json.new",
        "rename .folder.record.json.new record.json",
        "fsync folder",
    ]


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.save("m", FULL)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Retryable) as caught:
        journal.save("m", sit.Record())
    assert caught.value.code == "disk-full"
    assert journal.load("m") == FULL
    assert [path.name for path in (tmp_path / "journal/models").iterdir()] == ["m.json"]
