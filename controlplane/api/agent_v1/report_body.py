"""A report as it arrives, checked field by field, into the values the services take."""

from typing import Any

from rest_framework import serializers

from controlplane.api.v1.fields import VersionNumber
from controlplane.domain.admission import Instant
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.fleet.inventory import AcceleratorFacts, MachineFacts, TritonFacts
from controlplane.rollouts.leases import LeaseQuestion
from controlplane.rollouts.reports import PHASES, ModelReport, Report

BIGINT = 2**63 - 1


class _Model(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=64)
    generation = serializers.IntegerField(min_value=0, max_value=BIGINT)
    phase = serializers.ChoiceField(choices=PHASES)
    target = VersionNumber(allow_null=True)
    serving = VersionNumber(allow_null=True)
    healthy = serializers.BooleanField(allow_null=True)
    reason_code = serializers.CharField(max_length=60, allow_blank=True, default="")
    reason = serializers.CharField(allow_blank=True, default="")
    lease = serializers.IntegerField(min_value=0, max_value=BIGINT, allow_null=True, default=None)


class InstantBody(serializers.Serializer[Any]):
    """A moment by the agent's own clock; both or neither."""

    boot_id = serializers.CharField(max_length=64)
    uptime_seconds = serializers.FloatField(min_value=0)


class _Triton(serializers.Serializer[Any]):
    live = serializers.BooleanField(allow_null=True)
    version = serializers.CharField(max_length=32, allow_null=True, allow_blank=True, default="")
    http_url = serializers.CharField(max_length=200, allow_null=True, allow_blank=True, default="")


class _Accelerator(serializers.Serializer[Any]):
    uuid = serializers.CharField(max_length=80)
    name = serializers.CharField(max_length=120)
    memory_bytes = serializers.IntegerField(
        min_value=0, max_value=BIGINT, allow_null=True, default=None
    )
    compute_capability = serializers.CharField(max_length=16, allow_blank=True, default="")
    driver_version = serializers.CharField(max_length=32, allow_blank=True, default="")
    power_limit_watts = serializers.FloatField(min_value=0, allow_null=True, default=None)


class _Inventory(serializers.Serializer[Any]):
    hostname = serializers.CharField(max_length=253)
    cpu_count = serializers.IntegerField(
        min_value=1, max_value=65536, allow_null=True, default=None
    )
    memory_bytes = serializers.IntegerField(
        min_value=0, max_value=BIGINT, allow_null=True, default=None
    )
    disk_free_bytes = serializers.IntegerField(
        min_value=0, max_value=BIGINT, allow_null=True, default=None
    )
    accelerators = _Accelerator(many=True, allow_null=True, default=None)
    python = serializers.CharField(max_length=32, allow_null=True, allow_blank=True, default="")


class _Report(serializers.Serializer[Any]):
    seq = serializers.IntegerField(min_value=1, max_value=BIGINT)
    epoch = serializers.IntegerField(min_value=0, max_value=BIGINT)
    observed_generation = serializers.IntegerField(min_value=0, max_value=BIGINT)
    agent_version = serializers.CharField(max_length=32)
    sent_at = serializers.DateTimeField(allow_null=True, default=None)
    triton = _Triton()
    models = _Model(many=True)
    inventory = _Inventory(required=False, allow_null=True, default=None)
    made = InstantBody(required=False, allow_null=True, default=None)


class _LeaseQuestion(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=64)
    epoch = serializers.IntegerField(min_value=0, max_value=BIGINT)
    generation = serializers.IntegerField(min_value=0, max_value=BIGINT)
    deployment = serializers.IntegerField(allow_null=True, default=None)
    manifest_digest = serializers.CharField(max_length=71)
    asked = InstantBody()


def parse_lease_question(body: dict[str, Any]) -> LeaseQuestion:
    """Raises DRF's `ValidationError` with every fault."""
    checked = _LeaseQuestion(data=body)
    checked.is_valid(raise_exception=True)
    data = checked.validated_data
    return LeaseQuestion(
        model=data["model"],
        epoch=data["epoch"],
        generation=data["generation"],
        manifest_digest=data["manifest_digest"],
        asked=_instant(data["asked"]),
    )


def parse_report(body: dict[str, Any]) -> Report:
    """Raises DRF's `ValidationError` with every fault, `InvalidInput` for a model named twice."""
    checked = _Report(data=body)
    checked.is_valid(raise_exception=True)
    data = checked.validated_data
    names = [entry["model"] for entry in data["models"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        fault = FieldError(field="models", message=f"names {', '.join(twice)} twice")
        raise InvalidInput("invalid-request", "The report cannot be used.", errors=[fault])
    triton = data["triton"]
    return Report(
        seq=data["seq"],
        epoch=data["epoch"],
        observed_generation=data["observed_generation"],
        agent_version=data["agent_version"],
        sent_at=data["sent_at"],
        triton=TritonFacts(
            live=triton["live"],
            version=triton["version"] or "",
            http_url=triton["http_url"] or "",
        ),
        models=tuple(_model(entry) for entry in data["models"]),
        machine=_machine(data["inventory"]) if data["inventory"] else None,
        made=_instant(data["made"]) if data["made"] else None,
    )


def _instant(entry: dict[str, Any]) -> Instant:
    return Instant(boot=entry["boot_id"], uptime=entry["uptime_seconds"])


def _model(entry: dict[str, Any]) -> ModelReport:
    return ModelReport(**{**entry, "reason": entry["reason"][:500]})


def _machine(entry: dict[str, Any]) -> MachineFacts:
    accelerators = entry.pop("accelerators")
    python_version = entry.pop("python") or ""
    return MachineFacts(
        **entry,
        python_version=python_version,
        accelerators=None
        if accelerators is None
        else tuple(AcceleratorFacts(**facts) for facts in accelerators),
    )
