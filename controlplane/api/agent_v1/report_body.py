"""A report as it arrives, checked field by field, into the values the services take."""

from typing import Any

from rest_framework import serializers

from controlplane.api.v1.fields import VersionNumber
from controlplane.catalog.footprints import Learned
from controlplane.domain.admission import Instant
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.fleet.inventory import (
    AcceleratorFacts,
    MachineFacts,
    TritonFacts,
    TritonServerFacts,
    TrustFacts,
)
from controlplane.rollouts.leases import LeaseQuestion
from controlplane.rollouts.reports import PHASES, ModelReport, Report

BIGINT = 2**63 - 1
MAX_LOAD_SECONDS = 7 * 24 * 3600
MAX_TRUSTED_KEYS = 100


def _names() -> serializers.ListField:
    return serializers.ListField(
        child=serializers.CharField(max_length=128), max_length=256, allow_null=True, default=None
    )


def _bytes() -> serializers.IntegerField:
    return serializers.IntegerField(min_value=0, max_value=BIGINT, allow_null=True, default=None)


class _Learned(serializers.Serializer[Any]):
    load_seconds = serializers.FloatField(
        min_value=0, max_value=MAX_LOAD_SECONDS, allow_null=True, default=None
    )
    memory_bytes = _bytes()
    accelerator_memory_bytes = _bytes()


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
    learned = _Learned(required=False, allow_null=True, default=None)


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


class _TritonServer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=64, allow_blank=True)
    live = serializers.BooleanField(allow_null=True, default=None)
    version = serializers.CharField(max_length=32, allow_null=True, allow_blank=True, default="")
    http_url = serializers.CharField(max_length=200, allow_null=True, allow_blank=True, default="")
    models = _names()
    extensions = _names()
    backends = _names()
    tensorrt = serializers.CharField(max_length=32, allow_null=True, allow_blank=True, default="")


class _Policy(serializers.Serializer[Any]):
    allow_executable = serializers.BooleanField(allow_null=True, default=None)


class _Trust(serializers.Serializer[Any]):
    unsigned = serializers.CharField(max_length=32)
    keys = serializers.ListField(
        child=serializers.CharField(max_length=128),
        max_length=MAX_TRUSTED_KEYS,
        default=list,
    )


class _Network(serializers.Serializer[Any]):
    download_bytes_per_second = serializers.FloatField(min_value=0, allow_null=True, default=None)
    round_trip_seconds = serializers.FloatField(min_value=0, allow_null=True, default=None)


class _Inventory(serializers.Serializer[Any]):
    hostname = serializers.CharField(max_length=253)
    cpu_count = serializers.IntegerField(
        min_value=1, max_value=65536, allow_null=True, default=None
    )
    memory_bytes = serializers.IntegerField(
        min_value=0, max_value=BIGINT, allow_null=True, default=None
    )
    disk_total_bytes = serializers.IntegerField(
        min_value=0, max_value=BIGINT, allow_null=True, default=None
    )
    disk_free_bytes = serializers.IntegerField(
        min_value=0, max_value=BIGINT, allow_null=True, default=None
    )
    booted_at = serializers.DateTimeField(allow_null=True, default=None)
    network = _Network(allow_null=True, default=None)
    servers = _TritonServer(many=True, allow_null=True, default=None)
    accelerators = _Accelerator(many=True, allow_null=True, default=None)
    python = serializers.CharField(max_length=32, allow_null=True, allow_blank=True, default="")
    policy = _Policy(required=False, allow_null=True, default=None)
    trust = _Trust(required=False, allow_null=True, default=None)


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
    learned = entry["learned"]
    return ModelReport(
        **{
            **entry,
            "reason": entry["reason"][:500],
            "learned": None if learned is None else Learned(**learned),
        }
    )


def _machine(entry: dict[str, Any]) -> MachineFacts:
    accelerators, tritons = entry.pop("accelerators"), entry.pop("servers")
    network, python_version = entry.pop("network") or {}, entry.pop("python") or ""
    policy, trust = entry.pop("policy") or {}, entry.pop("trust")
    return MachineFacts(
        **entry,
        **network,
        python_version=python_version,
        executable_allowed=policy.get("allow_executable"),
        trust=None
        if trust is None
        else TrustFacts(unsigned=trust["unsigned"], keys=tuple(sorted(trust["keys"]))),
        accelerators=None
        if accelerators is None
        else tuple(AcceleratorFacts(**facts) for facts in accelerators),
        tritons=None if tritons is None else tuple(_triton_server(facts) for facts in tritons),
    )


def _triton_server(entry: dict[str, Any]) -> TritonServerFacts:
    lists = {
        key: None if entry[key] is None else tuple(entry[key])
        for key in ("models", "extensions", "backends")
    }
    return TritonServerFacts(
        name=entry["name"],
        live=entry["live"],
        version=entry["version"] or "",
        http_url=entry["http_url"] or "",
        tensorrt=entry["tensorrt"] or "",
        **lists,
    )
