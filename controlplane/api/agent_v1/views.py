"""The agents' plane: enrolment, sessions, desired state, reports (docs/agent-protocol.md).

`hot_path.py` stands before `desired` and answers what has not changed."""

import base64
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils import timezone
from rest_framework import serializers

from controlplane.api.agent_v1.http import (
    agent_call,
    held_headers,
    json_body,
    poll_headers,
    session_call,
)
from controlplane.api.agent_v1.measurement_body import parse_measurement
from controlplane.api.agent_v1.report_body import BIGINT, parse_lease_question, parse_report
from controlplane.api.errors import flatten, problem_response
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.fleet.identity import (
    CHALLENGE_LIFETIME,
    Caller,
    enrol_agent,
    issue_challenge,
    open_session,
)
from controlplane.fleet.keys import rotate_key
from controlplane.fleet.measurements import record_measurement
from controlplane.rollouts.leases import request_lease
from controlplane.rollouts.queries import desired_document
from controlplane.rollouts.reports import record_report


class EnrolBody(serializers.Serializer[Any]):
    token = serializers.CharField(max_length=200)
    public_key = serializers.CharField(max_length=100)
    hostname = serializers.CharField(max_length=253, allow_blank=True, default="")
    agent_version = serializers.CharField(max_length=32, allow_blank=True, default="")


class ChallengeBody(serializers.Serializer[Any]):
    agent = serializers.CharField(max_length=36)


class SessionBody(serializers.Serializer[Any]):
    agent = serializers.CharField(max_length=36)
    nonce = serializers.CharField(max_length=100)
    session_counter = serializers.IntegerField(min_value=1, max_value=BIGINT)
    signature = serializers.CharField(max_length=200)


class RotateKeyBody(serializers.Serializer[Any]):
    agent = serializers.CharField(max_length=36)
    nonce = serializers.CharField(max_length=100)
    public_key = serializers.CharField(max_length=100)
    signature = serializers.CharField(max_length=200)
    new_signature = serializers.CharField(max_length=200)


@agent_call("POST")
def enrol(request: HttpRequest) -> HttpResponseBase:
    body = _checked(EnrolBody, request)
    agent = enrol_agent(**body, now=timezone.now())
    return JsonResponse(
        {
            "agent": str(agent.pk),
            "site": agent.site.name,
            "poll_seconds": agent.site.poll_seconds or settings.WAYPOST_POLL_SECONDS,
        }
    )


@agent_call("POST")
def challenge(request: HttpRequest) -> HttpResponseBase:
    body = _checked(ChallengeBody, request)
    nonce = issue_challenge(agent_id=body["agent"], now=timezone.now())
    expires_seconds = int(CHALLENGE_LIFETIME.total_seconds())
    return JsonResponse({"nonce": nonce, "expires_seconds": expires_seconds})


@agent_call("POST")
def session(request: HttpRequest) -> HttpResponseBase:
    body = _checked(SessionBody, request)
    body["agent_id"] = body.pop("agent")
    opened = open_session(**body, now=timezone.now())
    return JsonResponse(
        {
            "token": opened.secret,
            "expires_seconds": opened.expires_seconds,
            "session_counter": opened.counter,
            "rotate_by": moment_text(opened.rotate_by),
        }
    )


@agent_call("POST")
def rotate(request: HttpRequest) -> HttpResponseBase:
    """The new key is proven by both keys' signatures, so no session is needed for it."""
    body = _checked(RotateKeyBody, request)
    body["agent_id"] = body.pop("agent")
    agent = rotate_key(**body, now=timezone.now())
    key = base64.b64encode(bytes(agent.public_key)).decode()
    return JsonResponse({"agent": str(agent.pk), "public_key": key})


@session_call("GET")
def desired(request: HttpRequest, caller: Caller) -> HttpResponseBase:
    headers = poll_headers(caller)
    if request.headers.get("If-None-Match") == headers["ETag"]:
        held = held_headers(caller, request.headers.get("Waypost-Holds", ""), timezone.now())
        return HttpResponse(status=304, headers={**headers, **held})
    document = desired_document(
        site_id=caller.site_id,
        site_name=caller.site_name,
        epoch=caller.epoch,
        generation=caller.generation,
    )
    return JsonResponse(document, headers=headers)


@session_call("POST")
def report(request: HttpRequest, caller: Caller) -> HttpResponseBase:
    try:
        said = parse_report(json_body(request))
    except serializers.ValidationError as error:
        return _refused(error)
    receipt = record_report(caller=caller, report=said, now=timezone.now())
    return JsonResponse(
        {
            "epoch": caller.epoch,
            "generation": caller.generation,
            "poll_seconds": caller.poll_seconds,
            "duplicate": receipt.duplicate,
            "superseded": list(receipt.superseded),
        }
    )


@session_call("POST")
def lease(request: HttpRequest, caller: Caller) -> HttpResponseBase:
    try:
        question = parse_lease_question(json_body(request))
    except serializers.ValidationError as error:
        return _refused(error)
    answer = request_lease(caller=caller, question=question, now=timezone.now())
    return JsonResponse(answer.document())


@session_call("POST")
def measurements(request: HttpRequest, caller: Caller) -> HttpResponseBase:
    try:
        measurement = parse_measurement(json_body(request))
    except serializers.ValidationError as error:
        return _refused(error)
    record_measurement(caller=caller, measurement=measurement, now=timezone.now())
    return JsonResponse({"accepted_seq": measurement.seq})


def moment_text(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _checked(serializer: type[serializers.Serializer[Any]], request: HttpRequest) -> dict[str, Any]:
    body = serializer(data=json_body(request))
    if not body.is_valid():
        raise _invalid(body.errors)
    return dict(body.validated_data)


def _refused(error: serializers.ValidationError) -> HttpResponseBase:
    return problem_response(_invalid(error.detail))


def _invalid(detail: Any) -> InvalidInput:
    faults: list[FieldError] = flatten("", detail)
    return InvalidInput("invalid-request", "The request cannot be used.", errors=faults)
