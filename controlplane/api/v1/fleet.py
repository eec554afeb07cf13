"""Sites and the tokens their agents join with."""

from typing import Any

import django_filters
from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of
from controlplane.api.v1.fields import VersionNumber
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.health import SiteHealth
from controlplane.domain.signals import SignalName, SignalState
from controlplane.fleet.models import Site
from controlplane.fleet.queries import find_site, sites
from controlplane.fleet.services import (
    create_enrolment_token,
    create_site,
    restore_site,
    retire_site,
    update_site,
)
from controlplane.rollouts.queries import difference, site_statuses

ENVELOPE = (
    "power_limit_kw",
    "cooling_limit_kw",
    "water_limit_l_per_hour",
    "power_usage_effectiveness",
    "water_usage_l_per_kwh",
    "energy_price_per_kwh",
    "carbon_g_per_kwh",
    "uplink_mbit_per_s",
    "downlink_mbit_per_s",
    "egress_price_per_gb",
)
STATED = (
    "tier",
    "region",
    "latitude",
    "longitude",
    "labels",
    "timezone",
    "redundancy_group",
    "poll_seconds",
    *ENVELOPE,
)


class SiteIn(serializers.ModelSerializer[Site]):
    class Meta:
        model = Site
        fields: tuple[str, ...] = ("name", *STATED)
        # A name in use is a conflict (409), which the service answers, not invalid input.
        extra_kwargs: dict[str, Any] = {"name": {"validators": []}}

    def to_internal_value(self, data: Any) -> Any:
        """Unknown keys are refused: a mistyped limit must not be silently no limit."""
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, dict) else []
        if unknown:
            faults = [
                FieldError(field=key, message="is not a property of a site") for key in unknown
            ]
            raise InvalidInput("site-invalid", "The site cannot be kept as given.", errors=faults)
        return super().to_internal_value(data)


class SitePatch(SiteIn):
    """The name is for ever, so a change may not hold it."""

    class Meta(SiteIn.Meta):
        fields = STATED


class SiteModelOut(serializers.Serializer[Any]):
    model = serializers.CharField(source="model.name")
    desired = VersionNumber(allow_null=True)
    reported = VersionNumber(source="reported_serving", allow_null=True)
    phase = serializers.CharField(source="reported_phase")
    healthy = serializers.BooleanField(source="reported_healthy", allow_null=True)
    difference = serializers.SerializerMethodField()
    reason_code = serializers.CharField(source="reported_reason_code")
    reason = serializers.CharField(source="reported_reason")
    reported_at = serializers.DateTimeField(allow_null=True)

    def get_difference(self, row: Any) -> str:
        return difference(row)


class SignalOut(serializers.Serializer[Any]):
    name = serializers.ChoiceField(choices=[name.value for name in SignalName])
    state = serializers.ChoiceField(
        choices=[state.value for state in SignalState],
        help_text="stale: what was true when the site was last heard; unknown: not reported",
    )
    reason = serializers.CharField()


class SiteOut(serializers.Serializer[Any]):
    name = serializers.CharField(source="site.name")
    tier = serializers.CharField(source="site.tier")
    region = serializers.CharField(source="site.region")
    latitude = serializers.FloatField(source="site.latitude", allow_null=True)
    longitude = serializers.FloatField(source="site.longitude", allow_null=True)
    labels = serializers.DictField(source="site.labels", child=serializers.CharField())
    timezone = serializers.CharField(source="site.timezone")
    redundancy_group = serializers.CharField(source="site.redundancy_group")
    poll_seconds = serializers.IntegerField(
        source="site.poll_seconds", allow_null=True, help_text="null: the fleet's default"
    )
    envelope = serializers.SerializerMethodField()
    retired_at = serializers.DateTimeField(source="site.retired_at", allow_null=True)
    health = serializers.ChoiceField(
        source="verdict.health",
        choices=[health.value for health in SiteHealth],
        allow_null=True,
        help_text="null for a retired site",
    )
    health_reason = serializers.CharField(source="verdict.reason")
    signals = SignalOut(many=True, help_text="what the health rests on; none for a retired site")
    last_seen_at = serializers.DateTimeField(allow_null=True)
    models = SiteModelOut(many=True)

    def get_envelope(self, status: Any) -> dict[str, float | None]:
        return {name: getattr(status.site, name) for name in ENVELOPE}

    def to_representation(self, status: Any) -> Any:
        """Nobody looks after a retired site: it is neither well nor ill."""
        document = super().to_representation(status)
        if retired_at := status.site.retired_at:
            reason = f"retired on {retired_at:%Y-%m-%d %H:%M} UTC"
            document |= {"health": None, "health_reason": reason, "signals": []}
        return document


class SiteReasonIn(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=400, required=False, default="", allow_blank=True)


class EnrolmentTokenOut(serializers.Serializer[Any]):
    token = serializers.CharField(help_text="shown once")
    expires_at = serializers.DateTimeField()
    command = serializers.CharField(help_text="the line to paste at the site")


class SiteFilter(django_filters.FilterSet):  # type: ignore[misc]  # the library carries no types
    health = django_filters.ChoiceFilter(
        choices=[(health.value, health.value) for health in SiteHealth], method="leave"
    )

    retired = django_filters.ChoiceFilter(
        choices=[("true", "true"), ("false", "false")], method="leave"
    )

    def leave(self, rows: Any, name: str, value: str) -> Any:
        """The view's to do: health is derived from reports and the time, and retired sites are
        left out unless they are asked for."""
        return rows

    class Meta:
        model = Site
        fields = ("tier", "region")


class Sites(GenericAPIView[Site]):
    queryset = Site.objects.none()
    filterset_class = SiteFilter
    selector_labels = "labels"
    selector_columns = {"name": "name", "tier": "tier", "region": "region"}
    write_scope = Scope.FLEET

    @extend_schema(responses=SiteOut(many=True))
    def get(self, request: Request) -> Response:
        retired = request.query_params.get("retired") == "true"
        rows, now = self.filter_queryset(sites(retired=retired)), timezone.now()
        health = request.query_params.get("health")
        if health:
            statuses = [s for s in site_statuses(rows, now=now) if s.verdict.health == health]
            page = self.paginator.paginate_queryset(statuses, request, view=self)  # type: ignore[union-attr]  # set by the settings
        else:
            ids = [site.pk for site in self.paginate_queryset(rows) or ()]
            page = site_statuses(sites(retired=retired).filter(pk__in=ids), now=now)
        return self.get_paginated_response(SiteOut(page, many=True).data)

    @extend_schema(request=SiteIn, responses={201: SiteOut})
    def post(self, request: Request) -> Response:
        body = SiteIn(data=request.data)
        body.is_valid(raise_exception=True)
        now = timezone.now()
        site = create_site(fields=body.validated_data, actor=actor_of(request), now=now)
        return Response(_site_document(site.name), status=201)


class SiteDetail(APIView):
    write_scope = Scope.FLEET
    # What somebody could overwrite; that a site was heard again is no change of that kind.
    etag_fields = ("name", *(set(STATED) - set(ENVELOPE)), "envelope", "retired_at")

    @extend_schema(responses=SiteOut)
    def get(self, request: Request, name: str) -> Response:
        return Response(_site_document(name))

    @extend_schema(request=SitePatch, responses=SiteOut)
    def patch(self, request: Request, name: str) -> Response:
        site = find_site(name)
        body = SitePatch(site, data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        update_site(
            site=site, fields=body.validated_data, actor=actor_of(request), now=timezone.now()
        )
        return Response(_site_document(name))

    @extend_schema(
        parameters=[OpenApiParameter("reason", str, description="or in the body; one is required")],
        request=SiteReasonIn,
        responses={204: None},
    )
    def delete(self, request: Request, name: str) -> Response:
        """Retires the site: its agent is revoked, it leaves every plan, its name stays taken."""
        site = find_site(name, retired=True)
        retire_site(site=site, reason=_reason(request), actor=actor_of(request), now=timezone.now())
        return Response(status=204)


class RestoreSite(APIView):
    write_scope = Scope.FLEET

    @extend_schema(request=SiteReasonIn, responses=SiteOut)
    def post(self, request: Request, name: str) -> Response:
        site = find_site(name, retired=True)
        restore_site(
            site=site, reason=_reason(request), actor=actor_of(request), now=timezone.now()
        )
        return Response(_site_document(name))


class EnrolmentTokens(APIView):
    write_scope = Scope.FLEET

    @extend_schema(request=None, responses={201: EnrolmentTokenOut})
    def post(self, request: Request, name: str) -> Response:
        token, secret = create_enrolment_token(
            site=find_site(name), actor=actor_of(request), now=timezone.now()
        )
        command = f"waypost-agent join {settings.PUBLIC_URL} --token {secret}"
        document = {"token": secret, "expires_at": token.expires_at, "command": command}
        return Response(EnrolmentTokenOut(document).data, status=201)


def _site_document(name: str) -> Any:
    """Of any site, retired ones too. Raises `NotFound`."""
    find_site(name, retired=True)
    (status,) = site_statuses(sites(retired=None).filter(name=name), now=timezone.now())
    return SiteOut(status).data


def _reason(request: Request) -> str:
    """From the body, or the query of a call that has none."""
    body = SiteReasonIn(data=request.data or request.query_params)
    body.is_valid(raise_exception=True)
    reason: str = body.validated_data["reason"]
    return reason
