"""What agents told of their sites: the machines with their Tritons, and what was measured."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.api.paging import NewestFirst
from controlplane.api.v1.fields import VersionNumber
from controlplane.domain.triton_floor import floor_warning
from controlplane.fleet.measurements import measured_intervals, model_figures
from controlplane.fleet.models import (
    Accelerator,
    AcceleratorMeasurement,
    MeasuredInterval,
    Server,
)
from controlplane.fleet.queries import find_site, servers_of


class SiteAcceleratorOut(serializers.ModelSerializer[Accelerator]):
    class Meta:
        model = Accelerator
        fields = (
            "uuid",
            "name",
            "memory_bytes",
            "compute_capability",
            "driver_version",
            "power_limit_watts",
        )


class TritonOut(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="empty where there is one alone")
    live = serializers.BooleanField(allow_null=True)
    version = serializers.CharField(help_text="empty: not reported")
    warning = serializers.CharField(help_text="why it is too old to be safe; empty if it is not")
    extensions = serializers.ListField(child=serializers.CharField(), allow_null=True)
    backends = serializers.ListField(child=serializers.CharField(), allow_null=True)


class SiteServerOut(serializers.ModelSerializer[Server]):
    """A machine as its agent reported it; what nobody reported is null."""

    # Said here, as the limit of the column is another on each database.
    cpu_count = serializers.IntegerField(min_value=0, allow_null=True)
    tritons = serializers.SerializerMethodField()
    accelerators = serializers.SerializerMethodField()

    class Meta:
        model = Server
        fields = (
            "hostname",
            "cpu_count",
            "memory_bytes",
            "disk_total_bytes",
            "disk_free_bytes",
            "booted_at",
            "python_version",
            "download_bytes_per_second",
            "round_trip_seconds",
            "tritons",
            "accelerators",
            "reported_at",
        )

    @extend_schema_field(TritonOut(many=True))
    def get_tritons(self, server: Server) -> Any:
        told = server.tritons or [
            {"name": "", "live": server.triton_live, "version": server.triton_version}
        ]
        rows = [{"extensions": None, "backends": None, **each} for each in told]
        return TritonOut(
            [{**row, "warning": floor_warning(row["version"])} for row in rows], many=True
        ).data

    @extend_schema_field(
        SiteAcceleratorOut(many=True, allow_null=True, help_text="null: nobody could look")
    )
    def get_accelerators(self, server: Server) -> Any:
        if server.accelerator_count is None:
            return None
        return SiteAcceleratorOut(server.accelerators.all(), many=True).data


class MeasuredModelOut(serializers.Serializer[Any]):
    """Counts of an interval, and the figures that follow; null is what was not counted."""

    server = serializers.CharField(help_text="empty where there is one alone")
    model = serializers.CharField()
    version = VersionNumber()
    requests = serializers.IntegerField(help_text="those that failed counted in")
    failed = serializers.IntegerField()
    failures = serializers.DictField(
        child=serializers.IntegerField(), help_text="failed requests by Triton's word for why"
    )
    batch_executions = serializers.IntegerField(allow_null=True)
    request_us = serializers.IntegerField(allow_null=True)
    queue_us = serializers.IntegerField(allow_null=True)
    compute_input_us = serializers.IntegerField(allow_null=True)
    compute_infer_us = serializers.IntegerField(allow_null=True)
    compute_output_us = serializers.IntegerField(allow_null=True)
    requests_per_second = serializers.FloatField()
    error_rate = serializers.FloatField(allow_null=True)
    mean_latency_ms = serializers.FloatField(allow_null=True)
    p95_at_most_ms = serializers.FloatField(
        allow_null=True, help_text="the bound of the histogram's bucket it lies in"
    )
    p95_above_ms = serializers.FloatField(
        allow_null=True, help_text="the last bound, where it lies above all"
    )


class MeasuredAcceleratorOut(serializers.ModelSerializer[AcceleratorMeasurement]):
    class Meta:
        model = AcceleratorMeasurement
        fields = (
            "uuid",
            "utilization",
            "memory_used_bytes",
            "memory_total_bytes",
            "power_watts",
            "energy_joules",
            "temperature_celsius",
        )


class MeasuredIntervalOut(serializers.ModelSerializer[MeasuredInterval]):
    dropped = serializers.IntegerField(min_value=0)
    models = serializers.SerializerMethodField()
    idle = serializers.ListField(
        child=serializers.ListField(child=serializers.CharField()),
        help_text="server, model and version of what was loaded and asked nothing",
    )
    accelerators = MeasuredAcceleratorOut(many=True)

    class Meta:
        model = MeasuredInterval
        fields = ("ended_at", "seconds", "dropped", "models", "idle", "accelerators")

    @extend_schema_field(MeasuredModelOut(many=True))
    def get_models(self, interval: MeasuredInterval) -> Any:
        rows = [
            {**vars(row), **vars(model_figures(interval, row))} for row in interval.models.all()
        ]
        return MeasuredModelOut(rows, many=True).data


class SiteServers(APIView):
    @extend_schema(responses=SiteServerOut(many=True))
    def get(self, request: Request, name: str) -> Response:
        return Response(SiteServerOut(servers_of(find_site(name)), many=True).data)


class NewestIntervalFirst(NewestFirst):
    ordering = ("-ended_at", "-pk")


class SiteMeasurements(GenericAPIView[MeasuredInterval]):
    queryset = MeasuredInterval.objects.none()
    pagination_class = NewestIntervalFirst

    @extend_schema(
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor", str)],
        responses=MeasuredIntervalOut(many=True),
    )
    def get(self, request: Request, name: str) -> Response:
        """The last day's intervals, newest first."""
        page = self.paginate_queryset(measured_intervals(find_site(name)))
        return self.get_paginated_response(MeasuredIntervalOut(page, many=True).data)
