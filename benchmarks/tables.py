"""Figures as plain text. Knows nothing of how they were measured."""

from collections.abc import Mapping, Sequence
from typing import Any

_HEADINGS = ("", "req/s", "min-max", "p50 ms", "p99 ms", "server us", "db us", "load us", "x peer")


def protocol_table(result: Mapping[str, Any]) -> str:
    """The table of one database: medians of the rounds; `x peer` compares the server's CPU."""
    rows = [_row(name, case) for name, case in result["cases"].items()]
    noise = f"others used up to {result['foreign_share_max']:.0%} of the machine"
    lines = [
        f"{result['database']}: {'NOISY, ' if result['noisy'] else ''}{noise}",
        *align([_HEADINGS, *rows]),
    ]
    return "\n".join(lines)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(name: str, case: Mapping[str, Any]) -> tuple[str, ...]:
    rate = case["requests_per_second"]
    against = case.get("against_peer")
    return (
        name,
        f"{rate['median']:,.0f}",
        f"{rate['min']:,.0f}-{rate['max']:,.0f}",
        *(f"{case[figure]['median']:.1f}" for figure in ("p50_ms", "p99_ms")),
        *(
            f"{case[figure]['median']:,.0f}"
            for figure in ("server_cpu_us", "database_cpu_us", "load_cpu_us")
        ),
        f"{against['cpu']:.2f}" if against else "",
    )
