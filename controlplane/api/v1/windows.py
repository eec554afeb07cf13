"""Maintenance windows: when sites may be changed."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.windows import DAYS, MAX_MINUTES, WindowKind
from controlplane.fleet.models import MaintenanceWindow
from controlplane.fleet.queries import find_window, warnings_by_window
from controlplane.fleet.services import create_window, delete_window

CLOCK = "%H:%M"


class SiteSelectorSchema(serializers.Serializer[Any]):
    """Conditions that narrow each other; without any, every site."""

    tier = serializers.CharField(required=False)
    region = serializers.CharField(required=False)
    hardware = serializers.CharField(required=False)
    labels = serializers.DictField(child=serializers.CharField(), required=False)
    sites = serializers.ListField(child=serializers.CharField(), required=False)
    exclude = serializers.ListField(child=serializers.CharField(), required=False)


@extend_schema_field({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"})
class ClockField(serializers.TimeField):
    """Hours and minutes; the format `time` of JSON Schema would want seconds and an offset."""


class WindowIn(serializers.Serializer[Any]):
    name = serializers.SlugField(max_length=63)
    kind = serializers.ChoiceField(choices=[kind.value for kind in WindowKind])
    # Checked by the domain, which names every fault at once.
    selector = serializers.JSONField()
    days = serializers.ListField(child=serializers.ChoiceField(choices=DAYS), min_length=1)
    start = ClockField(format=CLOCK, input_formats=[CLOCK], help_text="local time, such as 22:00")
    minutes = serializers.IntegerField(min_value=1, max_value=MAX_MINUTES)
    timezone = serializers.CharField(
        max_length=64,
        allow_blank=True,
        default="",
        help_text="such as Europe/Berlin; blank: each site's own",
    )

    def to_internal_value(self, data: Any) -> Any:
        """Unknown keys are refused: a mistyped condition must not silently widen a window."""
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, dict) else []
        if unknown:
            faults = [
                FieldError(field=key, message="is not a property of a window") for key in unknown
            ]
            raise InvalidInput(
                "window-invalid", "The window cannot be kept as given.", errors=faults
            )
        return super().to_internal_value(data)


class WindowInSchema(WindowIn):
    selector = SiteSelectorSchema()  # type: ignore[assignment]  # documents what the domain accepts


class WindowOut(WindowInSchema):
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    warnings = serializers.SerializerMethodField(help_text="what is likely not meant")

    def get_warnings(self, window: MaintenanceWindow) -> list[str]:
        said: dict[str, list[str]] = self.context["warnings"]
        return said.get(window.name, [])

    def to_representation(self, window: MaintenanceWindow) -> Any:
        return super().to_representation(window) | {"selector": window.selector}


class Windows(GenericAPIView[MaintenanceWindow]):
    queryset = MaintenanceWindow.objects.all()
    write_scope = Scope.FLEET

    @extend_schema(responses=WindowOut(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        context = {"warnings": warnings_by_window()}
        return self.get_paginated_response(WindowOut(page, many=True, context=context).data)

    @extend_schema(request=WindowInSchema, responses={201: WindowOut})
    def post(self, request: Request) -> Response:
        body = WindowIn(data=request.data)
        body.is_valid(raise_exception=True)
        window = create_window(
            fields=body.validated_data, actor=actor_of(request), now=timezone.now()
        )
        return Response(_document(window), status=201)


class WindowDetail(APIView):
    write_scope = Scope.FLEET

    @extend_schema(responses=WindowOut)
    def get(self, request: Request, name: str) -> Response:
        return Response(_document(find_window(name)))

    @extend_schema(request=None, responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        delete_window(name=name, actor=actor_of(request), now=timezone.now())
        return Response(status=204)


def _document(window: MaintenanceWindow) -> Any:
    return WindowOut(window, context={"warnings": warnings_by_window()}).data
