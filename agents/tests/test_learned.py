"""What loads took: kept over restarts, of memory the least, lost without harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from waypost_agent import learned as module
from waypost_agent.learned import LearnedBook
from waypost_agent.preflight import Learned


def book(folder: Path, hardware: str = "cpu") -> LearnedBook:
    return LearnedBook(folder / "learned.json", lambda: hardware)


def test_it_is_kept_over_a_restart_and_by_hardware(tmp_path: Path) -> None:
    book(tmp_path).note("sha256:a", Learned(load_seconds=2.5, memory_bytes=100))
    assert book(tmp_path).of("sha256:a") == Learned(load_seconds=2.5, memory_bytes=100)
    assert book(tmp_path).of("sha256:b") == Learned()
    assert book(tmp_path, "NVIDIA L4").of("sha256:a") == Learned()


def test_of_memory_the_least_counts_and_of_time_the_last(tmp_path: Path) -> None:
    """Whatever else grew meanwhile was measured too; it must never refuse a version."""
    kept = book(tmp_path)
    kept.note("sha256:a", Learned(load_seconds=2.0, memory_bytes=100))
    kept.note("sha256:a", Learned(load_seconds=3.0, memory_bytes=900))
    kept.note("sha256:a", Learned(load_seconds=4.0, accelerator_memory_bytes=7))
    assert kept.of("sha256:a") == Learned(
        load_seconds=4.0, memory_bytes=100, accelerator_memory_bytes=7
    )


@pytest.mark.parametrize("text", ["", "[]", '{"sha256:a": 5}', '{"sha256:a": {"cpu": {"x": 1}}}'])
def test_a_file_that_makes_no_sense_costs_only_what_it_held(tmp_path: Path, text: str) -> None:
    (tmp_path / "learned.json").write_text(text)
    kept = book(tmp_path)
    assert kept.of("sha256:a") == Learned()
    kept.note("sha256:a", Learned(load_seconds=1.0))
    assert book(tmp_path).of("sha256:a") == Learned(load_seconds=1.0)


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    kept = LearnedBook(tmp_path / "missing" / "learned.json", lambda: "cpu")
    kept.note("sha256:a", Learned(load_seconds=1.0))
    assert kept.of("sha256:a") == Learned(load_seconds=1.0)


def test_the_oldest_versions_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VERSIONS", 2)
    kept = book(tmp_path)
    for name in ("a", "b", "a", "c"):
        kept.note(name, Learned(load_seconds=1.0))
    assert [kept.of(name) == Learned() for name in ("a", "b", "c")] == [False, True, False]
