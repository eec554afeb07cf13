"""The peer: the least a Django view can do for an agent. It checks the token with one SELECT, as
the product does, and answers; it knows no protocol, no lease, no wish and no error format."""

import hashlib
import json
import uuid

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from controlplane.fleet.models import Agent, AgentSession


def _session(request: HttpRequest) -> tuple[uuid.UUID, int, int] | None:
    """(agent, epoch, generation) of the token, from one row; None when it opens nothing."""
    secret = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return (
        AgentSession.objects.filter(
            digest=hashlib.sha256(secret.encode()).hexdigest(),
            expires_at__gt=timezone.now(),
            agent__revoked_at=None,
        )
        .values_list(
            "agent_id",
            "agent__site__generation__epoch",
            "agent__site__generation__generation",
        )
        .first()
    )


def desired(request: HttpRequest) -> HttpResponse:
    session = _session(request)
    if session is None:
        return HttpResponse(status=401)
    tag = f'"{session[1]}.{session[2]}"'
    if request.headers.get("If-None-Match") != tag:
        return HttpResponse(status=412)
    return HttpResponse(status=304, headers={"ETag": tag})


@csrf_exempt  # agents carry no cookies
def report(request: HttpRequest) -> HttpResponse:
    """One durable write, no more: the conditional UPDATE that orders reports."""
    session = _session(request)
    if session is None:
        return HttpResponse(status=401)
    seq = int(json.loads(request.body)["seq"])
    rose = Agent.objects.filter(pk=session[0], report_seq__lt=seq).update(report_seq=seq)
    return JsonResponse({"epoch": session[1], "generation": session[2], "duplicate": not rose})


urlpatterns = [path("agent/v1/desired", desired), path("agent/v1/report", report)]
