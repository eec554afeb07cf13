"""One transfer by MLflow's own client, in its environment; prints what it took.

The plan on stdin: way ("up" or "down"), uri, file, folder. Python and MLflow are started by then.
"""

import json
import os
import resource
import sys
import time
from typing import Any

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from benchmarks.processes import peak_mib


def transfer(plan: dict[str, Any]) -> dict[str, float]:
    """Wall and CPU seconds of the transfer alone, and the most memory of this process."""
    repository = get_artifact_repository(plan["uri"])
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    if plan["way"] == "up":
        repository.log_artifact(plan["file"])
    else:
        repository.download_artifacts(plan["file"], plan["folder"])
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": peak_mib(os.getpid()),
    }


if __name__ == "__main__":
    sys.stdout, answer_to = sys.stderr, sys.stdout  # progress bars are no answer
    json.dump(transfer(json.load(sys.stdin)), answer_to)
