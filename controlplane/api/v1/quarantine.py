"""Versions taken out of use, models held at a site, and sites that serve something else than is
desired."""

from typing import Any

import django_filters
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of, may_freeze
from controlplane.api.v1.fields import VersionNumber
from controlplane.api.v1.rollout_verbs import ReasonIn
from controlplane.api.v1.version_documents import VersionOut
from controlplane.catalog.models import DriftPolicy
from controlplane.catalog.queries import find_model
from controlplane.fleet.queries import find_site
from controlplane.rollouts.corrections import holds_of
from controlplane.rollouts.drift import drifting
from controlplane.rollouts.models import SiteModel
from controlplane.rollouts.quarantine import (
    pin_model,
    quarantine_version,
    release_version,
    unpin_model,
)


class QuarantineIn(ReasonIn):
    roll_back = serializers.BooleanField(
        required=False, default=False, help_text="its rollout turns back as well"
    )


class QuarantineVersion(APIView):
    write_scope = Scope.ROLLOUT

    @extend_schema(
        request=QuarantineIn,
        responses=VersionOut,
        description="The version is offered and activated nowhere any more. Sites that serve it "
        "go on until somebody rolls them back.",
    )
    def post(self, request: Request, name: str, number: int) -> Response:
        body = QuarantineIn(data=request.data)
        body.is_valid(raise_exception=True)
        version = quarantine_version(
            model_name=name,
            number=number,
            **body.validated_data,
            actor=actor_of(request),
            now=timezone.now(),
            may_while_frozen=may_freeze(request),
        )
        return Response(VersionOut(version).data)


class ReleaseVersion(APIView):
    write_scope = Scope.ROLLOUT

    @extend_schema(request=ReasonIn, responses=VersionOut)
    def post(self, request: Request, name: str, number: int) -> Response:
        version = release_version(
            model_name=name,
            number=number,
            reason=_reason(request),
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(VersionOut(version).data)


class PinOut(serializers.Serializer[Any]):
    site = serializers.CharField(source="site.name")
    model = serializers.CharField(source="model.name")
    desired = VersionNumber(allow_null=True)
    pinned_by = serializers.CharField(help_text="empty: not pinned")
    pinned_reason = serializers.CharField()


class PinModel(APIView):
    """Holds what is desired of a model at a site: plans leave the site out."""

    write_scope = Scope.ROLLOUT

    @extend_schema(request=ReasonIn, responses=PinOut)
    def post(self, request: Request, site: str, model: str) -> Response:
        _require_both(site, model)
        pin_model(
            site_name=site,
            model_name=model,
            reason=_reason(request),
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(_pin_document(site, model))


class UnpinModel(APIView):
    write_scope = Scope.ROLLOUT

    @extend_schema(request=ReasonIn, responses=PinOut)
    def post(self, request: Request, site: str, model: str) -> Response:
        _require_both(site, model)
        unpin_model(
            site_name=site,
            model_name=model,
            reason=_reason(request),
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(_pin_document(site, model))


class DriftOut(serializers.Serializer[Any]):
    site = serializers.CharField(source="site.name")
    model = serializers.CharField(source="model.name")
    desired = VersionNumber(allow_null=True)
    reported = VersionNumber(source="reported_serving", allow_null=True)
    reported_at = serializers.DateTimeField(allow_null=True)
    since = serializers.DateTimeField(
        source="drifted_since", allow_null=True, help_text="null: seen just now"
    )
    drift_policy = serializers.ChoiceField(source="model.drift_policy", choices=DriftPolicy.choices)
    corrected_at = serializers.DateTimeField(allow_null=True)
    pinned_by = serializers.CharField(help_text="a pinned model is not corrected")
    hold = serializers.CharField(
        help_text="why it is not acted on now; empty: it is when the engine next looks"
    )


class DriftFilter(django_filters.FilterSet):  # type: ignore[misc]  # the library carries no types
    site = django_filters.CharFilter(field_name="site__name")
    model = django_filters.CharFilter(field_name="model__name")
    drift_policy = django_filters.ChoiceFilter(
        field_name="model__drift_policy", choices=DriftPolicy.choices
    )

    class Meta:
        model = SiteModel
        fields = ("site", "model", "drift_policy")


class Drift(ListAPIView[SiteModel]):
    """Sites that report another version than is desired, while no rollout is at work there."""

    serializer_class = DriftOut
    filterset_class = DriftFilter

    def get_queryset(self) -> Any:
        rows = drifting().select_related("site", "model", "desired").defer("desired__manifest")
        return rows.order_by("site__name", "model__name")

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset) or []
        holds = holds_of(page, timezone.now())
        for row in page:
            row.hold = holds[row.pk]
        return page


def _reason(request: Request) -> str:
    body = ReasonIn(data=request.data)
    body.is_valid(raise_exception=True)
    reason: str = body.validated_data["reason"]
    return reason


def _require_both(site: str, model: str) -> None:
    """A name that nothing has is told apart from a model that nothing is wished of."""
    find_site(site)
    find_model(model)


def _pin_document(site: str, model: str) -> Any:
    row = SiteModel.objects.select_related("site", "model", "desired").get(
        site__name=site, model__name=model
    )
    return PinOut(row).data
