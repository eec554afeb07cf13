"""Models, their immutable versions and the bytes behind them. Data and constraints; no verbs."""

from django.db import models
from django.db.models import Q


class DriftPolicy(models.TextChoices):
    CORRECT = "correct", "correct"
    HOLD = "hold", "hold"
    ADOPT = "adopt", "adopt"


class UnsignedPolicy(models.TextChoices):
    """What becomes of a version whose manifest no release key signed."""

    ALLOWED = "allowed", "allowed"
    WARNED = "warned", "warned"
    REFUSED = "refused", "refused"


class Model(models.Model):
    """A named line of versions."""

    name = models.CharField(max_length=64, unique=True)
    # What to do when a site reports another version than is desired, and nobody is at it.
    drift_policy = models.CharField(max_length=16, choices=DriftPolicy, default=DriftPolicy.CORRECT)
    description = models.CharField(max_length=500, blank=True)
    # People who must approve a version of class data; one that executes code needs two at least.
    approvals_needed = models.PositiveSmallIntegerField(default=1)
    unsigned = models.CharField(
        max_length=16, choices=UnsignedPolicy, default=UnsignedPolicy.ALLOWED
    )
    # Of all its versions together, retired ones counted in. Null: no limit of its own.
    quota_bytes = models.PositiveBigIntegerField(null=True)
    quota_versions = models.PositiveIntegerField(null=True)
    created_at = models.DateTimeField()
    # Rises with every change of the row; the ETag of its resource.
    revision = models.PositiveBigIntegerField(default=1)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Blob(models.Model):
    """Bytes that are in the artifact store, by their SHA-256."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size_bytes = models.BigIntegerField()
    stored_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.sha256[:12]


class VersionState(models.TextChoices):
    UPLOADING = "uploading", "uploading"
    # Every byte is held, and something is still asked for, such as a signature.
    REGISTERED = "registered", "registered"
    # The files are what they claim to be, and the model's signature policy is met.
    VALIDATED = "validated", "validated"
    # As many people as its class and its model ask for have said yes to these bytes.
    APPROVED = "approved", "approved"
    QUARANTINED = "quarantined", "quarantined"
    # Serves on where it serves, and goes nowhere else.
    RETIRED = "retired", "retired"


class ContentClass(models.TextChoices):
    """Whether loading a version runs its author's code (domain/bundle_files.py)."""

    DATA = "data", "data"
    # Machine code that only its builder can vouch for, such as a TensorRT plan.
    OPAQUE = "opaque", "opaque"
    EXECUTABLE = "executable", "executable"


class Version(models.Model):
    """What a manifest says, under a number that is also Triton's. Its bytes never change."""

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=VersionState, default=VersionState.UPLOADING)
    # Why it may not be used: who quarantined or retired it and what they said, or what is missing.
    state_reason = models.CharField(max_length=500, blank=True)
    # What a release from quarantine leads back to.
    state_before = models.CharField(max_length=16, blank=True)
    manifest = models.JSONField()
    manifest_digest = models.CharField(max_length=71)
    size_bytes = models.BigIntegerField()
    # The strictest of its variants. Empty until its files were looked at.
    content_class = models.CharField(max_length=16, choices=ContentClass, blank=True)
    # What was found that is no fault: sentences.
    warnings = models.JSONField(default=list, blank=True)
    # Where it comes from, as given: commit, CI run, MLflow run, ... (domain/lineage.py).
    lineage = models.JSONField(default=dict, blank=True)
    labels = models.JSONField(default=dict, blank=True)
    notes = models.TextField(max_length=10_000, blank=True)
    created_by = models.CharField(max_length=150)
    # The person behind whoever pushed it: their own approval of it is not another's.
    author = models.CharField(max_length=150, blank=True)
    # Rises with every change of the row; the ETag of its resource.
    revision = models.PositiveBigIntegerField(default=1)
    created_at = models.DateTimeField()
    registered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["model", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="version_number_once"),
            models.UniqueConstraint(fields=["model", "manifest_digest"], name="version_bytes_once"),
            models.CheckConstraint(
                name="version_state_known", condition=Q(state__in=VersionState.values)
            ),
            models.CheckConstraint(name="version_number_from_1", condition=Q(number__gte=1)),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.number}"


class Variant(models.Model):
    """A build of a version for some hardware. A version that was pushed as one build has one,
    called `default`; its manifest is the version's own."""

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="variants")
    name = models.SlugField(max_length=40)
    # Among those that a site can run the highest is taken; equal ones by name.
    priority = models.IntegerField(default=0)
    # What agents are given: files and `requires` of this build alone.
    manifest = models.JSONField()
    manifest_digest = models.CharField(max_length=71, db_index=True)
    size_bytes = models.BigIntegerField()
    content_class = models.CharField(max_length=16, choices=ContentClass, blank=True)
    backend = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ["version", "-priority", "name"]
        constraints = [
            models.UniqueConstraint(fields=["version", "name"], name="variant_once_per_version")
        ]

    def __str__(self) -> str:
        return f"{self.version} ({self.name})"


class VersionFile(models.Model):
    """One file of a version. Rows beside the manifest, so that a digest finds its versions. Of a
    version with several variants the path begins with the variant's name."""

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="files")
    path = models.CharField(max_length=515)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64, db_index=True)
    # When whoever pushes this version, or another of the model, had sent these very bytes: to name
    # a digest is no proof of having them.
    sent_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["path"]
        constraints = [
            models.UniqueConstraint(fields=["version", "path"], name="path_once_per_version")
        ]

    def __str__(self) -> str:
        return self.path


class VersionApproval(models.Model):
    """A person's yes to the bytes of a version. It binds to their digest."""

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="approvals")
    manifest_digest = models.CharField(max_length=71)
    person = models.CharField(max_length=150)
    actor = models.CharField(max_length=150)
    reason = models.CharField(max_length=400, blank=True)
    at = models.DateTimeField()

    class Meta:
        ordering = ["version", "at"]
        constraints = [
            models.UniqueConstraint(
                fields=["version", "person"], name="version_approved_once_per_person"
            )
        ]

    def __str__(self) -> str:
        return f"approval of {self.version} by {self.person}"


class SigningKey(models.Model):
    """A public key whose holder may sign versions. The private half is never here."""

    name = models.SlugField(max_length=63, unique=True)
    public_key = models.TextField(max_length=4000, help_text="PEM")
    key_type = models.CharField(max_length=40)
    # SHA-256 of the key as DER (SubjectPublicKeyInfo), in hex.
    fingerprint = models.CharField(max_length=64, unique=True)
    added_by = models.CharField(max_length=150)
    added_at = models.DateTimeField()
    # Signatures by it count no more.
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoked_reason = models.CharField(max_length=400, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class VersionSignature(models.Model):
    """A verified signature over a version's files, as it came."""

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="signatures")
    key = models.ForeignKey(SigningKey, on_delete=models.PROTECT, related_name="signatures")
    bundle = models.JSONField()
    added_by = models.CharField(max_length=150)
    added_at = models.DateTimeField()

    class Meta:
        ordering = ["version", "added_at"]
        constraints = [
            models.UniqueConstraint(fields=["version", "key"], name="version_signed_once_per_key")
        ]

    def __str__(self) -> str:
        return f"{self.version} signed by {self.key}"


class Channel(models.Model):
    """A name that moves from version to version, such as `stable`. Moving it may start a rollout:
    the engine's tick finds the rows that were moved and not yet handled."""

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="channels")
    name = models.SlugField(max_length=40)
    version = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+")
    # The stored strategy by which a move is rolled out. Empty: a move starts nothing.
    strategy = models.CharField(max_length=40, blank=True)
    moved_by = models.CharField(max_length=150, blank=True)
    # The person behind whoever moved it; the rollout's author.
    person = models.CharField(max_length=150, blank=True)
    moved_at = models.DateTimeField(null=True)
    # When the move was acted on, and what came of it: a sentence.
    handled_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=500, blank=True)
    revision = models.PositiveBigIntegerField(default=1)

    class Meta:
        ordering = ["model", "name"]
        constraints = [
            models.UniqueConstraint(fields=["model", "name"], name="channel_once_per_model")
        ]

    def __str__(self) -> str:
        return f"{self.model}@{self.name}"


class LearnedFootprint(models.Model):
    """What loading a build took on some hardware, as agents measured it: the largest that was
    reported. Null is what nobody could measure."""

    manifest_digest = models.CharField(max_length=71)
    # Names of the accelerators, as a rollout's plan writes them; empty: none.
    hardware = models.CharField(max_length=500, blank=True)
    memory_bytes = models.BigIntegerField(null=True)
    accelerator_memory_bytes = models.BigIntegerField(null=True)
    load_seconds = models.FloatField(null=True)
    learned_at = models.DateTimeField()

    class Meta:
        ordering = ["manifest_digest", "hardware"]
        constraints = [
            models.UniqueConstraint(
                fields=["manifest_digest", "hardware"], name="footprint_once_per_build_and_hardware"
            )
        ]

    def __str__(self) -> str:
        return f"{self.manifest_digest[7:19]} on {self.hardware or 'CPU'}"


class MultipartUpload(models.Model):
    """A file of a model on its way into S3-compatible storage in parts, by its SHA-256."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="+")
    sha256 = models.CharField(max_length=64)
    upload_id = models.CharField(max_length=1024)
    size_bytes = models.BigIntegerField()
    part_bytes = models.BigIntegerField()
    started_at = models.DateTimeField()

    class Meta:
        ordering = ["started_at"]
        constraints = [
            models.UniqueConstraint(fields=["model", "sha256"], name="one_upload_per_file_of_model")
        ]

    def __str__(self) -> str:
        return self.sha256[:12]


class RegistryLink(models.Model):
    """A model whose versions come from a registry, such as MLflow."""

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="links")
    registry = models.CharField(max_length=20, default="mlflow")
    remote_name = models.CharField(max_length=256)
    # Which alias (or stage, where a server still has them) moves which channel; empty: it imports.
    aliases = models.JSONField(default=dict)
    stages = models.JSONField(default=dict)
    created_by = models.CharField(max_length=150)
    # The person behind it: the author of what is imported.
    person = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    checked_at = models.DateTimeField(null=True)
    # A webhook or a person asked for a look.
    wanted_at = models.DateTimeField(null=True)
    failed_since = models.DateTimeField(null=True)
    failure = models.CharField(max_length=500, blank=True)
    claimed_until = models.DateTimeField(null=True)

    class Meta:
        ordering = ["model", "remote_name"]
        constraints = [
            models.UniqueConstraint(fields=["registry", "remote_name"], name="remote_name_once"),
        ]

    def __str__(self) -> str:
        return f"{self.model} from {self.registry}:{self.remote_name}"


class ImportState(models.TextChoices):
    PENDING = "pending", "pending"
    IMPORTING = "importing", "importing"
    IMPORTED = "imported", "imported"
    FAILED = "failed", "failed"


class ImportedVersion(models.Model):
    """A version of a registry, and what became of it here. Its alias was looked at once; from then
    on its number and the digests of its bytes count."""

    link = models.ForeignKey(RegistryLink, on_delete=models.CASCADE, related_name="imports")
    remote_version = models.CharField(max_length=64)
    version = models.ForeignKey(
        Version, on_delete=models.SET_NULL, null=True, related_name="imports"
    )
    source_uri = models.CharField(max_length=1000, blank=True)
    run_id = models.CharField(max_length=64, blank=True)
    # Channels to move once it is here.
    channels = models.JSONField(default=list)
    state = models.CharField(max_length=16, choices=ImportState, default=ImportState.PENDING)
    reason = models.CharField(max_length=1000, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    not_before = models.DateTimeField(null=True)
    asked_by = models.CharField(max_length=150)
    # The person who asked, and so its author; empty where an alias did: then the link's maker is.
    person = models.CharField(max_length=150, blank=True)
    asked_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    # What is to be written back as tags, and what last was.
    to_tell = models.JSONField(default=dict)
    told = models.JSONField(default=dict)
    claimed_until = models.DateTimeField(null=True)

    class Meta:
        ordering = ["link", "-asked_at"]
        constraints = [
            models.UniqueConstraint(fields=["link", "remote_version"], name="imported_once"),
            models.CheckConstraint(
                name="import_state_known", condition=Q(state__in=ImportState.values)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.link} {self.remote_version}"


class ChunkMapState(models.TextChoices):
    CUTTING = "cutting", "cutting"
    PATCHING = "patching", "patching"
    READY = "ready", "ready"
    # It cannot have one; `reason` says why.
    NONE = "none", "none"


class ChunkMap(models.Model):
    """How a file falls into chunks, and how far the work on it is. It belongs to the bytes, so that
    versions and models that share a file share it."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size_bytes = models.BigIntegerField()
    # When the version that brought it was registered: the newest come first.
    registered_at = models.DateTimeField()
    state = models.CharField(
        max_length=16, choices=ChunkMapState, default=ChunkMapState.CUTTING, db_index=True
    )
    reason = models.CharField(max_length=500, blank=True)
    # In order: [length, sha256, key, word width]; the key is the same for the same part of the same
    # tensor in another version, and empty where the content decided the cut.
    chunks = models.JSONField(default=list)
    # Of how many chunks the patches were looked for.
    patched = models.PositiveIntegerField(default=0)
    # What agents are given: JSON, gzipped, and its digest. Empty until the file is cut.
    document = models.BinaryField(default=b"")
    document_digest = models.CharField(max_length=64, blank=True)
    # Until then somebody works on it, or failed to; afterwards anybody may.
    claimed_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="chunk_map_state_known", condition=Q(state__in=ChunkMapState.values)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.sha256[:12]} ({self.state})"


class Patch(models.Model):
    """Bytes that a site may fetch in place of a chunk; they lie in the store of patches."""

    chunk_map = models.ForeignKey(ChunkMap, on_delete=models.CASCADE, related_name="patches")
    chunk_sha256 = models.CharField(max_length=64, db_index=True)
    codec = models.CharField(max_length=32)
    # The chunk that a site must hold, or nothing.
    base_sha256 = models.CharField(max_length=64, blank=True)
    sha256 = models.CharField(max_length=64, db_index=True)
    size_bytes = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["chunk_map", "chunk_sha256", "codec", "base_sha256"],
                name="patch_once_per_chunk_and_base",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.codec} of {self.chunk_sha256[:12]}"
