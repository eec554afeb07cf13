"""A site's waiver of Triton's security floor: for versions that run code, and for no other rule."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of
from controlplane.api.v1.fields import StrictBody
from controlplane.fleet.queries import find_site
from controlplane.fleet.waivers import MAX_REASON, restore_triton_floor, waive_triton_floor


class WaiverIn(StrictBody):
    reason = serializers.CharField(max_length=MAX_REASON)


class WaiverOut(serializers.Serializer[Any]):
    """Whether versions that run code may go to a Triton below the security floor."""

    site = serializers.CharField(source="name")
    reason = serializers.CharField(source="floor_waiver", help_text="empty: the floor holds")
    by = serializers.CharField(source="floor_waiver_by")


class TritonFloorWaiver(APIView):
    write_scope = Scope.FLEET

    @extend_schema(responses=WaiverOut)
    def get(self, request: Request, name: str) -> Response:
        return Response(WaiverOut(find_site(name)).data)

    @extend_schema(request=WaiverIn, responses=WaiverOut)
    def post(self, request: Request, name: str) -> Response:
        """Lets versions that run code go to the site though its Triton is below the floor, or its
        version is not known. Again it replaces the reason."""
        body = WaiverIn(data=request.data)
        body.is_valid(raise_exception=True)
        site = waive_triton_floor(
            site=find_site(name),
            reason=body.validated_data["reason"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(WaiverOut(site).data)

    @extend_schema(
        parameters=[OpenApiParameter("reason", str, description="why, for the site's history")],
        responses={204: None},
    )
    def delete(self, request: Request, name: str) -> Response:
        """The floor holds again. What serves goes on; no such version comes anew."""
        restore_triton_floor(
            site=find_site(name),
            reason=request.query_params.get("reason", ""),
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(status=204)
