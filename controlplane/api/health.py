"""Health of the control plane: is the process up, can it serve, does the engine turn?

They answer without a token: load balancers and systemd ask."""

from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.utils import timezone

from controlplane.rollouts.queries import engine_status


def live(request: HttpRequest) -> JsonResponse:
    """200 while the process answers; touches nothing else."""
    return JsonResponse({"status": "ok"})


def ready(request: HttpRequest) -> JsonResponse:
    """200 when the database answers and holds the schema this code expects, else 503."""
    try:
        executor = MigrationExecutor(connection)
        waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except Error as error:
        reason = f"the database does not answer: {type(error).__name__}"
        return JsonResponse({"status": "unavailable", "reason": reason}, status=503)
    if waiting:
        reason = f"{len(waiting)} migrations are not applied; run manage.py migrate"
        return JsonResponse({"status": "unavailable", "reason": reason}, status=503)
    return JsonResponse({"status": "ok"})


def engine(request: HttpRequest) -> JsonResponse:
    """503 when no tick or no worker was seen lately: rollouts stand still, sites go on serving."""
    try:
        status = engine_status(now=timezone.now())
    except Error as error:
        reason = f"the database does not answer: {type(error).__name__}"
        return JsonResponse({"status": "unavailable", "reason": reason}, status=503)
    body = {
        "status": "ok" if status.alive else "unavailable",
        "reason": status.reason,
        "tick_at": status.tick_at,
        "worker_at": status.worker_at,
    }
    return JsonResponse(body, status=200 if status.alive else 503)
