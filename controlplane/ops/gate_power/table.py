"""The cells as tables in Markdown, with what a reader needs to know beside them."""

from collections.abc import Iterator, Sequence

from controlplane.ops.gate_power.study import ALPHA, GATE, METHODS, RANKS, THRESHOLD, Cell

_HEAD = ("sites", "requests/s", "version", *METHODS, "gate passes")


def comparison(cells: Sequence[Cell]) -> str:
    """A table a metric: probability of a stop within the hour, and in brackets the median number of
    the new version's requests until it. The best set method of a row that is stopped is marked."""
    lines = []
    for metric in dict.fromkeys(cell.metric for cell in cells):
        lines += ["", f"### {metric}", "", *_table(cell for cell in cells if cell.metric == metric)]
    return "\n".join(lines).strip()


def _table(cells: Iterator[Cell]) -> Iterator[str]:
    yield f"| {' | '.join(_HEAD)} |"
    yield "| " + " | ".join("---" if head == "version" else "---:" for head in _HEAD) + " |"
    for cell in cells:
        best = _quickest(cell)
        shown = [_entry(cell, name, is_best=name == best) for name in METHODS]
        row = [str(cell.fleet.sites), f"{cell.fleet.per_second:g}", cell.effect, *shown]
        yield f"| {' | '.join([*row, _percent(cell.passed)])} |"


def robustness(cells: Sequence[Cell]) -> str:
    """Of a version exactly at its limit: how often it is stopped within the hour."""
    lines = [f"| metric | sites | where | {GATE} | {RANKS} |", "| --- | ---: | --- | ---: | ---: |"]
    lines += [
        f"| {cell.metric} | {cell.fleet.sites} | {cell.effect} | {_percent(cell.stopped[GATE])} "
        f"| {_percent(cell.stopped[RANKS])} |"
        for cell in cells
    ]
    return "\n".join(lines)


def worse_than_a_peer(cells: Sequence[Cell]) -> list[str]:
    """Where a peer at the same rate of false alarms stops a bad version more often, or with fewer
    requests, than the gate: one sentence each."""
    said = []
    for cell in cells:
        if "limit" in cell.effect or "no change" in cell.effect:
            continue
        for peer in (RANKS, THRESHOLD):
            theirs, ours = cell.requests[peer], cell.requests[GATE]
            where = (
                f"{cell.metric}, {cell.effect}, {cell.fleet.sites} sites at "
                f"{cell.fleet.per_second:g}/s: {peer}"
            )
            if theirs is not None and (ours is None or theirs < ours):
                mine = "the gate tells less than half of them" if ours is None else f"{ours:,.0f}"
                said.append(f"{where} needs {theirs:,.0f} requests, the gate {mine}")
            elif cell.stopped[peer] > cell.stopped[GATE] + 2 * ALPHA and theirs is None:
                said.append(
                    f"{where} stops {_percent(cell.stopped[peer])}, "
                    f"the gate {_percent(cell.stopped[GATE])}"
                )
    return said


def _quickest(cell: Cell) -> str | None:
    if "limit" in cell.effect or "no change" in cell.effect:
        return None
    known = [
        (requests, name)
        for name in (GATE, RANKS, THRESHOLD)
        if (requests := cell.requests[name]) is not None
    ]
    return min(known)[1] if known else None


def _entry(cell: Cell, name: str, *, is_best: bool) -> str:
    requests = cell.requests[name]
    text = _percent(cell.stopped[name])
    if requests is not None:
        text += f" ({requests:,.0f})"
    return f"**{text}**" if is_best else text


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if 0 < share < 0.1 else f"{100 * share:.0f}%"
