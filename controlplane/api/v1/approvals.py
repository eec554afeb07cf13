"""What people say of a version: a yes to its bytes, that yes taken back, and that it is retired."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of, person_of
from controlplane.api.v1.fields import StrictBody
from controlplane.api.v1.rollout_verbs import ReasonIn
from controlplane.api.v1.version_documents import (
    ApprovalStandingOut,
    VersionOut,
    approval_document,
)
from controlplane.catalog.approvals import approve_version
from controlplane.catalog.queries import find_version
from controlplane.rollouts.version_verbs import retire_version, unretire_version, withdraw_approval


class ApproveVersionIn(StrictBody):
    manifest_digest = serializers.CharField(
        max_length=71,
        help_text="of the version that was looked at; 409 `approval-other-bytes` for another",
    )
    reason = serializers.CharField(max_length=400, required=False, default="", allow_blank=True)


class VersionApprovals(APIView):
    @extend_schema(
        responses=ApprovalStandingOut,
        description="Who said yes to the version, and what is missing until it is approved.",
    )
    def get(self, request: Request, name: str, number: int) -> Response:
        return Response(approval_document(find_version(name, number)))


class ApproveVersion(APIView):
    write_scope = Scope.APPROVE

    @extend_schema(
        request=ApproveVersionIn,
        responses=VersionOut,
        description="The caller's yes to the bytes that the digest names. A token speaks for its "
        "person: two tokens of one person are one yes. The same person again changes nothing. "
        "A version that executes code needs two people at least, none of them its author.",
    )
    def post(self, request: Request, name: str, number: int) -> Response:
        body = ApproveVersionIn(data=request.data)
        body.is_valid(raise_exception=True)
        approve_version(
            version=find_version(name, number),
            **body.validated_data,
            person=person_of(request),
            actor=actor_of(request),
            now=timezone.now(),
        )
        return _shown(name, number)


class WithdrawApproval(APIView):
    write_scope = Scope.APPROVE

    @extend_schema(
        request=ReasonIn,
        responses=VersionOut,
        description="Takes the caller's own yes back; a version that has one too few then is not "
        "approved any more. Possible until a rollout of the version is started; after that, "
        "quarantine it.",
    )
    def post(self, request: Request, name: str, number: int) -> Response:
        withdraw_approval(
            version=find_version(name, number), person=person_of(request), **_said(request)
        )
        return _shown(name, number)


class RetireVersion(APIView):
    write_scope = Scope.APPROVE

    @extend_schema(
        request=ReasonIn,
        responses=VersionOut,
        description="No new rollout brings it anywhere. Sites that serve it go on, and a rollback "
        "to it stays possible.",
    )
    def post(self, request: Request, name: str, number: int) -> Response:
        retire_version(version=find_version(name, number), **_said(request))
        return _shown(name, number)


class UnretireVersion(APIView):
    write_scope = Scope.APPROVE

    @extend_schema(
        request=ReasonIn,
        responses=VersionOut,
        description="Leads a retired version back to where it was.",
    )
    def post(self, request: Request, name: str, number: int) -> Response:
        unretire_version(version=find_version(name, number), **_said(request))
        return _shown(name, number)


def _said(request: Request) -> dict[str, Any]:
    body = ReasonIn(data=request.data)
    body.is_valid(raise_exception=True)
    return {
        "reason": body.validated_data["reason"],
        "actor": actor_of(request),
        "now": timezone.now(),
    }


def _shown(name: str, number: int) -> Response:
    return Response(VersionOut(find_version(name, number)).data)
