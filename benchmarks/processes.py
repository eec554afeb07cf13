"""Reads what processes cost, from /proc. Knows nothing of what they are for."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class _Stat:
    parent: int
    cpu_ticks: int


def _stat(pid: int) -> _Stat | None:
    """None when the process has gone meanwhile."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything; fields are counted after it (proc(5)).
    fields = text.rpartition(")")[2].split()
    # utime, stime, and those of children that were waited for.
    return _Stat(parent=int(fields[1]), cpu_ticks=sum(int(field) for field in fields[11:15]))


def _all() -> dict[int, _Stat]:
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return {pid: stat for pid in pids if (stat := _stat(pid)) is not None}


def tree_cpu_seconds(root: int) -> float:
    """CPU time, user and system, of a process and all below it."""
    stats = _all()
    tree = _tree(root, stats)
    return sum(stats[pid].cpu_ticks for pid in tree if pid in stats) / TICKS_PER_SECOND


def _tree(root: int, stats: dict[int, _Stat]) -> set[int]:
    tree, grown = {root}, True
    while grown:
        below = {pid for pid, stat in stats.items() if stat.parent in tree} - tree
        tree |= below
        grown = bool(below)
    return tree


def titled_cpu_seconds(word: str) -> float:
    """CPU time of the processes whose title holds `word`: PostgreSQL's backends name their
    database there. 0 when the server is on another machine."""
    return (
        sum(stat.cpu_ticks for pid, stat in _all().items() if word in _title(pid))
        / TICKS_PER_SECOND
    )


def _title(pid: int) -> str:
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    title = raw.replace(b"\0", b" ").decode(errors="replace")
    return title if title.startswith("postgres:") else ""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident bytes: all of them; with pages that others share counted in parts; and those that
    lie in no file, which the kernel cannot drop and read again."""

    rss: int
    pss: int
    anonymous: int


def memory_of(pid: int) -> Memory:
    lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return Memory(rss=sizes["Rss"], pss=sizes["Pss"], anonymous=sizes["Anonymous"])


def busy_cpu_seconds() -> float:
    """CPU time of the whole machine that was not idle, all cores together."""
    fields = [int(field) for field in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, iowait = fields[3], fields[4]
    return (sum(fields) - idle - iowait) / TICKS_PER_SECOND


def peak_mib(pid: int) -> float:
    """The most memory that the process has had in use, 0 once it has ended."""
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    (found,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")] or ["0"]
    return int(found) / 1024


def tree_peak_mib(root: int) -> float:
    """The most memory that each process of a tree has had in use since `forget_tree_peak`, added
    up: they need not have had it at one moment."""
    return sum(peak_mib(pid) for pid in _tree(root, _all()))


def forget_tree_peak(root: int) -> None:
    """From here on peaks count anew (proc(5), clear_refs)."""
    for pid in _tree(root, _all()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            (_PROC / str(pid) / "clear_refs").write_text("5")
