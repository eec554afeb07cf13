"""How much of a link, a disk and a processor the agent may take: the site's own rules.

Values with their defaults; decides only what a reserve that nobody chose is.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds are by the agent's clock, sizes in bytes, rates in bytes a second.

    `reserve_bytes` stays free on the disk whatever is wished; None is a tenth of the disk and at
    least 2 GiB. `keep_versions` counts the serving and the previous version in. A download that
    brings less than `stall_bytes_per_second` for `stall_seconds` is dropped. `bytes_per_second` 0
    is no limit. `sync_seconds` is what a power cut may cost of a fast download; of a slow one it
    costs a piece.
    """

    reserve_bytes: int | None = None
    keep_versions: int = 2
    quarantine_bytes: int = GIB
    bytes_per_second: int = 0
    stall_bytes_per_second: int = 1024
    stall_seconds: float = 60.0
    progress_seconds: float = 10.0
    sync_seconds: float = 1.0
    scrub_first_seconds: float = 3600.0
    scrub_every_seconds: float = 7 * 86_400.0
    scrub_turn_bytes: int = 8 << 20
    scrub_turn_seconds: float = 5.0

    def reserve_of(self, disk_bytes: int) -> int:
        """What stays free on a disk of that size."""
        if self.reserve_bytes is not None:
            return self.reserve_bytes
        return max(2 * GIB, disk_bytes // 10)
