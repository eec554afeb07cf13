"""How a version is shown: its manifest, its builds, and where it stands on its way to be used."""

from collections.abc import Mapping
from typing import Any

from django.db.models import Prefetch
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from controlplane.api.v1.fields import VersionNumber
from controlplane.catalog.approvals import standing_of
from controlplane.catalog.models import ContentClass, Variant, Version, VersionState
from controlplane.catalog.uploads import missing_files
from controlplane.domain.manifest import SCHEMA, SCHEMA_OF_VARIANTS


class ManifestFileSchema(serializers.Serializer[Any]):
    path = serializers.CharField()
    size = serializers.IntegerField(min_value=0)
    sha256 = serializers.CharField()
    chunks = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="SHA-256 of each 16777216 bytes of the file in order; sites resume by them",
    )


class RequiresSchema(serializers.Serializer[Any]):
    """What a site must have; one that has less refuses the version before it fetches anything."""

    accelerator_memory_bytes = serializers.IntegerField(required=False, min_value=0)
    memory_bytes = serializers.IntegerField(required=False, min_value=0)
    compute_capability = serializers.CharField(required=False, help_text='at least, such as "8.0"')
    compute_capability_exact = serializers.CharField(
        required=False, help_text='such as "8.9": a TensorRT plan runs on no other'
    )
    driver = serializers.CharField(required=False, help_text='at least, such as "550.54"')
    tensorrt = serializers.CharField(
        required=False, help_text='such as "10.3", which the plan was built with'
    )
    triton = serializers.CharField(required=False, help_text='such as "2.51.0"')
    backends = serializers.ListField(child=serializers.CharField(), required=False)

    def to_representation(self, requires: Any) -> Any:
        """As it was written."""
        return dict(requires)


class BuildSchema(serializers.Serializer[Any]):
    name = serializers.CharField()
    priority = serializers.IntegerField(
        required=False, help_text="the highest that a site can run is taken; 0 when left out"
    )
    files = ManifestFileSchema(many=True)
    requires = RequiresSchema(required=False)


class ManifestSchema(serializers.Serializer[Any]):
    """`files` and `requires` of one build, or `variants`."""

    schema = serializers.ChoiceField(choices=[SCHEMA, SCHEMA_OF_VARIANTS])
    files = ManifestFileSchema(many=True, required=False)
    requires = RequiresSchema(required=False)
    variants = BuildSchema(many=True, required=False)

    def to_representation(self, manifest: Any) -> Any:
        """As it was written: its digest is over just this."""
        return dict(manifest)


class LineageSchema(serializers.Serializer[Any]):
    """Where it comes from, as its pusher says."""

    git_repository = serializers.CharField(required=False, max_length=300)
    git_commit = serializers.CharField(required=False, help_text="7 to 64 hex digits")
    ci_run = serializers.CharField(required=False, help_text="an http or https address")
    mlflow_run = serializers.CharField(required=False, max_length=100)
    dataset = serializers.CharField(required=False, max_length=300)
    metrics = serializers.DictField(child=serializers.FloatField(), required=False)

    def to_representation(self, lineage: Any) -> Any:
        """As it was given."""
        return dict(lineage)


class VersionApprovalOut(serializers.Serializer[Any]):
    person = serializers.CharField()
    actor = serializers.CharField(help_text="the token or the login by which they said it")
    reason = serializers.CharField()
    at = serializers.DateTimeField()


class ApprovalStandingOut(serializers.Serializer[Any]):
    needed = serializers.IntegerField(help_text="people that must say yes to these bytes")
    by_others = serializers.BooleanField(help_text="the author's own yes does not count")
    missing = serializers.IntegerField()
    counted = serializers.ListField(child=serializers.CharField(), help_text="people")
    sentence = serializers.CharField()
    given = VersionApprovalOut(many=True)


class VariantOut(serializers.Serializer[Variant]):
    name = serializers.CharField()
    priority = serializers.IntegerField()
    content_class = serializers.CharField(help_text="empty until its files were looked at")
    backend = serializers.CharField()
    manifest_digest = serializers.CharField()
    size_bytes = serializers.IntegerField()


class VersionOut(serializers.Serializer[Any]):
    model = serializers.CharField(source="model.name")
    version = VersionNumber(source="number")
    state = serializers.ChoiceField(choices=VersionState.choices)
    state_reason = serializers.CharField(
        help_text="who quarantined or retired it and why, or what is missing"
    )
    manifest_digest = serializers.CharField(help_text="what an approval names")
    manifest = ManifestSchema()
    variants = VariantOut(many=True, source="variants.all")
    size_bytes = serializers.IntegerField()
    content_class = serializers.ChoiceField(
        choices=[("", "not looked at yet"), *ContentClass.choices],
        help_text="whether loading it runs its author's code: the strictest of its variants",
    )
    warnings = serializers.ListField(child=serializers.CharField())
    labels = serializers.DictField(child=serializers.CharField())
    notes = serializers.CharField()
    lineage = LineageSchema()
    channels = serializers.SerializerMethodField(help_text="that point at it")
    approval = serializers.SerializerMethodField()
    created_by = serializers.CharField()
    author = serializers.CharField(help_text="the person behind whoever pushed it")
    created_at = serializers.DateTimeField()
    registered_at = serializers.DateTimeField(allow_null=True)
    revision = serializers.IntegerField(help_text="rises with every change")
    missing = serializers.SerializerMethodField(
        help_text="SHA-256 of the files that are still to be uploaded"
    )

    def get_missing(self, version: Version) -> list[str]:
        if version.state != VersionState.UPLOADING:
            return []
        listed = getattr(version, "missing_files", None)
        files = missing_files().filter(version=version) if listed is None else listed
        return sorted({file.sha256 for file in files})

    def get_channels(self, version: Version) -> list[str]:
        rows = version.model.channels.all()
        return sorted(row.name for row in rows if row.version_id == version.pk)

    @extend_schema_field(ApprovalStandingOut)
    def get_approval(self, version: Version) -> Any:
        return approval_document(version)


def approval_document(version: Version) -> Any:
    """Who said yes to the version, and what is missing."""
    found = standing_of(version)
    document: Mapping[str, object] = {
        "needed": found.rule.needed,
        "by_others": found.rule.by_others,
        "missing": found.missing,
        "counted": found.counted,
        "sentence": found.sentence,
        "given": list(version.approvals.all()),
    }
    return ApprovalStandingOut(document).data


def shown_with() -> "tuple[str | Prefetch[Any], ...]":
    """What a list of versions reads beside them, each in one query."""
    missing = Prefetch("files", missing_files(), to_attr="missing_files")
    return ("variants", "approvals", "signatures__key", "model__channels", missing)
