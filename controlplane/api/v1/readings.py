"""What a site tells of itself: power, cooling, water and its link, live against its envelope."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.v1.fields import Moment, StrictBody
from controlplane.fleet.queries import find_site
from controlplane.telemetry.models import Figure
from controlplane.telemetry.readings import live_readings, record_readings

# Far beyond any site.
_MOST = 1e9


def _value(text: str) -> serializers.FloatField:
    return serializers.FloatField(min_value=0, max_value=_MOST, required=False, help_text=text)


class ReadingsIn(StrictBody):
    """One or more figures of one moment."""

    at = Moment(required=False, help_text="when it was read; now where it is left out")
    power_kw = _value(Figure.POWER.label)
    cooling_kw = _value(Figure.COOLING.label)
    water_l_per_hour = _value(Figure.WATER.label)
    round_trip_ms = _value(Figure.ROUND_TRIP.label)
    uplink_mbit_per_s = _value(Figure.UPLINK.label)
    downlink_mbit_per_s = _value(Figure.DOWNLINK.label)

    def validate(self, attrs: Any) -> Any:
        if not set(attrs) & set(Figure.values):
            raise serializers.ValidationError(f"must name one of {', '.join(Figure.values)}")
        return attrs


class ReadingsTaken(serializers.Serializer[Any]):
    taken = serializers.ListField(
        child=serializers.ChoiceField(choices=Figure.values),
        help_text="those that were not known of that moment",
    )


class LiveReading(serializers.Serializer[Any]):
    figure = serializers.ChoiceField(choices=Figure.values)
    value = serializers.FloatField()
    at = serializers.DateTimeField()
    limit = serializers.FloatField(
        allow_null=True, help_text="of the site's envelope; null: it names none"
    )
    share = serializers.FloatField(allow_null=True, help_text="of the limit; 1 is all of it")


class SiteReadings(APIView):
    write_scope = Scope.FLEET

    @extend_schema(responses=LiveReading(many=True))
    def get(self, request: Request, name: str) -> Response:
        """The newest of each figure that was told in the last two days."""
        return Response(LiveReading(live_readings(find_site(name)), many=True).data)

    @extend_schema(request=ReadingsIn, responses=ReadingsTaken)
    def post(self, request: Request, name: str) -> Response:
        """Takes each figure of a moment once; a repetition changes nothing."""
        site, now = find_site(name), timezone.now()
        body = ReadingsIn(data=request.data)
        body.is_valid(raise_exception=True)
        figures = dict(body.validated_data)
        at = figures.pop("at", now)
        taken = record_readings(site=site, figures=figures, at=at, now=now)
        return Response(ReadingsTaken({"taken": sorted(taken)}).data)
