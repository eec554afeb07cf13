"""A measurement as it arrives, checked field by field, into the value the service takes.

Decides what is absurd: more than any machine could have counted in that time. One such counter
would spoil every sum that it is added to, so the interval is refused whole."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from rest_framework import serializers

from controlplane.api.agent_v1.report_body import BIGINT
from controlplane.api.v1.fields import VersionNumber
from controlplane.fleet.measurements import AcceleratorGauges, Measurement, ModelCounts

MAX_SECONDS = 86_400
MAX_MODELS = 1000
MAX_ACCELERATORS = 64
MAX_BUCKETS = 64
_DAYS_100 = 100 * 86_400
# Far beyond any machine, and small enough that sums of them stay numbers.
_MOST = 10**15
MOST_REQUESTS_PER_SECOND = 1_000_000
MOST_WATTS = 100_000
LONGEST_REQUEST_US = 86_400 * 1_000_000
_TIMES = ("request_us", "queue_us", "compute_input_us", "compute_infer_us", "compute_output_us")


def _count(most: int = _MOST, **options: Any) -> serializers.IntegerField:
    return serializers.IntegerField(min_value=0, max_value=most, **options)


def _optional_count(most: int = _MOST) -> serializers.IntegerField:
    return _count(most, allow_null=True, default=None)


def _optional_number(**options: Any) -> serializers.FloatField:
    bounds: dict[str, Any] = {"min_value": 0, "max_value": _MOST, **options}
    return serializers.FloatField(allow_null=True, default=None, **bounds)


class _Latency(serializers.Serializer[Any]):
    bounds = serializers.ListField(
        child=serializers.FloatField(min_value=0, max_value=_MOST), max_length=MAX_BUCKETS
    )
    counts = serializers.ListField(child=_count(), max_length=MAX_BUCKETS + 1)

    def validate(self, attrs: Any) -> Any:
        bounds = attrs["bounds"]
        if any(later <= earlier for earlier, later in pairwise(bounds)):
            raise serializers.ValidationError({"bounds": "must rise"})
        if len(attrs["counts"]) != len(bounds) + 1:
            raise serializers.ValidationError({"counts": "must be one more than bounds"})
        return attrs


class _Model(serializers.Serializer[Any]):
    server = serializers.CharField(max_length=64, allow_blank=True, default="")
    model = serializers.CharField(max_length=64)
    version = VersionNumber()
    requests = _count()
    failures = serializers.DictField(child=_count(), default=dict)
    batch_executions = _optional_count()
    request_us = _optional_count()
    queue_us = _optional_count()
    compute_input_us = _optional_count()
    compute_infer_us = _optional_count()
    compute_output_us = _optional_count()
    latency_ms = _Latency(allow_null=True, default=None)

    def validate_failures(self, failures: dict[str, int]) -> dict[str, int]:
        if len(failures) > 32 or any(len(reason) > 40 for reason in failures):
            raise serializers.ValidationError("must be at most 32 reasons of at most 40 characters")
        return failures

    def validate(self, attrs: Any) -> Any:
        if sum(attrs["failures"].values()) > attrs["requests"]:
            raise serializers.ValidationError({"failures": "must be at most requests in sum"})
        return attrs


class _Accelerator(serializers.Serializer[Any]):
    uuid = serializers.CharField(max_length=80)
    utilization = _optional_number(max_value=1)
    memory_used_bytes = _optional_count()
    memory_total_bytes = _optional_count()
    power_watts = _optional_number(max_value=MOST_WATTS)
    energy_joules = _optional_number()
    temperature_celsius = _optional_number(min_value=-273.15, max_value=1000)


class _Measurement(serializers.Serializer[Any]):
    boot_id = serializers.CharField(max_length=64)
    seq = _count(BIGINT)
    seconds = serializers.FloatField(min_value=0.001, max_value=MAX_SECONDS)
    age_seconds = serializers.FloatField(min_value=0, max_value=_DAYS_100)
    dropped = serializers.IntegerField(min_value=0, max_value=2**31 - 1, default=0)
    models = serializers.ListField(child=_Model(), max_length=MAX_MODELS)
    accelerators = serializers.ListField(
        child=_Accelerator(), max_length=MAX_ACCELERATORS, default=list
    )

    def validate_models(self, models: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = [(entry["server"], entry["model"], entry["version"]) for entry in models]
        if len(set(names)) != len(names):
            raise serializers.ValidationError("names a version of a server twice")
        return models

    def validate_accelerators(self, accelerators: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len({entry["uuid"] for entry in accelerators}) != len(accelerators):
            raise serializers.ValidationError("names an accelerator twice")
        return accelerators

    def validate(self, attrs: Any) -> Any:
        faults = {
            "models": [dict(_absurd(entry, attrs["seconds"])) for entry in attrs["models"]],
            "accelerators": [
                {"energy_joules": [f"is more than {MOST_WATTS:,} watts would be in that time"]}
                if (entry["energy_joules"] or 0) > attrs["seconds"] * MOST_WATTS
                else {}
                for entry in attrs["accelerators"]
            ],
        }
        if any(any(each) for each in faults.values()):
            raise serializers.ValidationError(
                {key: each for key, each in faults.items() if any(each)}
            )
        return attrs


def _absurd(entry: Mapping[str, Any], seconds: float) -> Iterator[tuple[str, list[str]]]:
    """Faults by field."""
    most = seconds * MOST_REQUESTS_PER_SECOND + 1
    latency = entry["latency_ms"]
    counts = {
        "requests": entry["requests"],
        "batch_executions": entry["batch_executions"] or 0,
        "latency_ms": sum(latency["counts"]) if latency else 0,
    }
    for name, count in counts.items():
        if count > most:
            yield name, [f"is more than {MOST_REQUESTS_PER_SECOND:,} a second"]
    for name in _TIMES:
        if (entry[name] or 0) > max(entry["requests"], 1) * LONGEST_REQUEST_US:
            yield name, ["is more than a day for each request"]


def parse_measurement(body: dict[str, Any]) -> Measurement:
    """Raises DRF's `ValidationError` with every fault."""
    checked = _Measurement(data=body)
    checked.is_valid(raise_exception=True)
    data = checked.validated_data
    return Measurement(
        boot_id=data["boot_id"],
        seq=data["seq"],
        seconds=data["seconds"],
        age_seconds=data["age_seconds"],
        dropped=data["dropped"],
        models=tuple(ModelCounts(**entry) for entry in data["models"]),
        accelerators=tuple(AcceleratorGauges(**entry) for entry in data["accelerators"]),
    )
