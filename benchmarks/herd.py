"""How a fleet comes back after the centre was away for ten minutes: by the agents' own link, in
virtual time. The limit beside it is what the same agents ask on an ordinary day."""

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

from benchmarks.errors import BenchmarkVoid
from benchmarks.options import Options
from benchmarks.switch import AGENT_PYTHON, ROOT
from benchmarks.tables import align

NAME = "herd"
_FOLDER = ROOT / "agents" / "tests"


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The table and the document."""
    if not AGENT_PYTHON.exists():
        raise BenchmarkVoid("the agent's environment is missing: make setup")
    say("200 agents, ten minutes without a centre")
    path = os.pathsep.join([str(ROOT / "agents" / "src"), str(_FOLDER)])
    ran = subprocess.run(
        [str(AGENT_PYTHON), str(_FOLDER / "herd.py")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise BenchmarkVoid(f"the simulation failed: {ran.stderr[-500:]}")
    seen: dict[str, dict[str, float]] = json.loads(ran.stdout)
    headings = ("", "calls/s before", "peak/s before", "peak/s after", "all back s", "503s")
    rows = [
        (
            name.replace("_", " "),
            f"{case['steady_mean']:.1f}",
            f"{case['steady_peak']:.0f}",
            f"{case['peak']:.0f}",
            f"{case['all_back_seconds']:.0f}",
            f"{case['refused']:.0f}",
        )
        for name, case in seen.items()
    ]
    return "\n".join(align([headings, *rows])), {"cases": seen}
