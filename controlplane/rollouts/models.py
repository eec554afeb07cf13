"""What should run where, what does, and how a rollout gets there. Data and constraints; no verbs.

The words and the legal steps between them stand in `domain/rollout.py`."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from controlplane.catalog.models import Model, Variant, Version
from controlplane.domain.gates import Verdict
from controlplane.domain.policy import Switch
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ACTIVE_ROLLOUT,
    DeploymentState,
    RolloutState,
    StageState,
)
from controlplane.fleet.models import Site


def choices(
    states: type[RolloutState] | type[StageState] | type[DeploymentState],
) -> list[tuple[str, str]]:
    return [(state.value, state.value.replace("_", " ")) for state in states]


class SiteModel(models.Model):
    """Desired and reported state of one model at one site."""

    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="models")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    desired = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+")
    previous = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+")
    # Which build of each; null where the version is.
    desired_variant = models.ForeignKey(
        Variant, on_delete=models.PROTECT, null=True, related_name="+"
    )
    previous_variant = models.ForeignKey(
        Variant, on_delete=models.PROTECT, null=True, related_name="+"
    )
    # The site's generation at which this wish last changed; a report of an older one is history.
    generation = models.PositiveBigIntegerField()
    # How the wished version takes over, and on what probation; part of the wish.
    switch = models.CharField(max_length=16, default=Switch.SURGE.value)
    probation = models.JSONField(null=True)
    reported_phase = models.CharField(max_length=16, blank=True)
    reported_serving = models.PositiveIntegerField(null=True)
    reported_healthy = models.BooleanField(null=True)
    reported_reason_code = models.CharField(max_length=60, blank=True)
    reported_reason = models.CharField(max_length=500, blank=True)
    reported_at = models.DateTimeField(null=True)
    # Held at what is desired now, by whom and why; plans leave the site out. Empty: not pinned.
    pinned_by = models.CharField(max_length=150, blank=True)
    pinned_reason = models.CharField(max_length=400, blank=True)
    # Since when it reports something else than is desired, with no deployment under way.
    drifted_since = models.DateTimeField(null=True)
    corrected_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["site", "model"]
        constraints = [
            models.UniqueConstraint(fields=["site", "model"], name="one_wish_per_site_and_model")
        ]
        indexes = [
            models.Index(
                fields=["corrected_at"],
                condition=Q(corrected_at__isnull=False),
                name="wish_corrected_at",
            )
        ]

    def __str__(self) -> str:
        return f"{self.model} at {self.site}"


class Strategy(models.Model):
    """A named way through the fleet. Rows never change: an edit is the next version, so what a
    running rollout was planned by stays what it was."""

    name = models.SlugField(max_length=40)
    version = models.PositiveIntegerField()
    title = models.CharField(max_length=200, blank=True)
    document = models.JSONField()
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["name", "-version"]
        verbose_name_plural = "strategies"
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="strategy_version_once")
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Rollout(models.Model):
    """Moving sites to a version, stage by stage. Immutable but for its state."""

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="rollouts")
    version = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="rollouts")
    state = models.CharField(max_length=32, choices=choices(RolloutState))
    reason_code = models.CharField(max_length=60, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    # Why it left its way: what failed, or who paused, aborted or rolled it back, and why.
    cause = models.CharField(max_length=500, blank=True)
    # Set when the engine paused it: resuming then demands a choice. Empty: a person did.
    pause_code = models.CharField(max_length=60, blank=True)
    # Since when the reason is the same: "why not yet, and since when".
    waiting_since = models.DateTimeField()
    # Rises with every change; every write is a compare-and-set on it.
    revision = models.PositiveBigIntegerField(default=1)
    note = models.CharField(max_length=500, blank=True)
    seed = models.CharField(max_length=32)
    plan_digest = models.CharField(max_length=71)
    excluded = models.JSONField(default=list)
    warnings = models.JSONField(default=list)
    # Whom the request left out: who joins late is held to it too.
    exclude = models.JSONField(default=dict)
    strategy_name = models.CharField(max_length=40, blank=True)
    strategy_version = models.PositiveIntegerField(null=True)
    # Every site gets the bytes at once; each activates only when its stage runs.
    barrier = models.BooleanField(default=False)
    start_at = models.DateTimeField(null=True)
    approval_required = models.BooleanField(default=False)
    approval_by_other = models.BooleanField(default=True)
    superseded_by = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, related_name="supersedes"
    )
    bytes_to_move = models.BigIntegerField(default=0)
    expected_seconds = models.FloatField(null=True)
    created_by = models.CharField(max_length=150)
    # The person behind whoever created it: an approval by another one of their tokens is theirs.
    author = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    # When a ring last had it looked at; one from before that has nothing new to say.
    advanced_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                name="rollout_state_known", condition=Q(state__in=[s.value for s in RolloutState])
            ),
            models.UniqueConstraint(
                fields=["model"],
                condition=Q(state__in=sorted(s.value for s in ACTIVE_ROLLOUT)),
                name="one_active_rollout_per_model",
            ),
        ]

    def __str__(self) -> str:
        return f"rollout {self.pk} of {self.version}"


class Stage(models.Model):
    """An ordered group of sites in a rollout."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="stages")
    index = models.PositiveIntegerField()
    name = models.CharField(max_length=40)
    select = models.JSONField()
    policy = models.JSONField(default=dict)
    # Takes sites that join late and those put off elsewhere; nobody silent is waited for in it.
    trailing = models.BooleanField(default=False)
    soak_seconds = models.FloatField()
    state = models.CharField(max_length=16, choices=choices(StageState))
    reason = models.CharField(max_length=500, blank=True)
    started_at = models.DateTimeField(null=True)
    soaked_seconds = models.FloatField(default=0)
    soak_counted_until = models.DateTimeField(null=True)
    # For how long the evidence has been missing; fresh evidence sets it back.
    inconclusive_seconds = models.FloatField(default=0)
    # A person let it go on: past its soak (promoted), or in spite of what failed (accepted).
    promoted_at = models.DateTimeField(null=True)
    accepted_at = models.DateTimeField(null=True)
    accepted_failures = models.PositiveIntegerField(default=0)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["rollout", "index"]
        constraints = [
            models.UniqueConstraint(fields=["rollout", "index"], name="stage_index_once"),
            models.CheckConstraint(
                name="stage_state_known", condition=Q(state__in=[s.value for s in StageState])
            ),
        ]

    def __str__(self) -> str:
        return f"stage {self.name} of rollout {self.rollout_id}"


class Approval(models.Model):
    """A person's yes to a plan (`stage` null), or to leaving a stage. It binds to the digest of the
    plan it was given for, and expires."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="approvals")
    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, null=True, related_name="approvals")
    plan_digest = models.CharField(max_length=71)
    actor = models.CharField(max_length=150)
    reason = models.CharField(max_length=400, blank=True)
    at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        ordering = ["rollout", "-at"]

    def __str__(self) -> str:
        return f"approval of {self.rollout} by {self.actor}"


class GateVerdict(models.Model):
    """What a gate of a stage last said, and on what evidence."""

    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="verdicts")
    gate = models.SlugField(max_length=40)
    verdict = models.CharField(max_length=16, choices=[(v.value, v.value) for v in Verdict])
    reason = models.CharField(max_length=500, blank=True)
    evidence = models.JSONField(default=dict)
    actor = models.CharField(max_length=150)
    judged_at = models.DateTimeField()
    # After that it says nothing any more: old evidence is no evidence. Null: it stays.
    fresh_until = models.DateTimeField(null=True)

    class Meta:
        ordering = ["stage", "gate"]
        constraints = [
            models.UniqueConstraint(fields=["stage", "gate"], name="one_verdict_per_stage_and_gate")
        ]

    def __str__(self) -> str:
        return f"{self.gate} of {self.stage}: {self.verdict}"


class DeploymentKind(models.TextChoices):
    FORWARD = "forward", "forward"
    ROLLBACK = "rollback", "rollback"


class Deployment(models.Model):
    """One site's part of a rollout, there (forward) or back (rollback)."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="deployments")
    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="deployments")
    site = models.ForeignKey(Site, on_delete=models.PROTECT, related_name="deployments")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=16, choices=DeploymentKind)
    # Recorded when offered, since sites may differ in what they ran before.
    from_version = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+")
    to_version = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+")
    # The build of `to_version` that the site was planned with, and once it is offered that which it
    # was given and why that one.
    variant = models.CharField(max_length=40, blank=True)
    variant_reason = models.CharField(max_length=500, blank=True)
    state = models.CharField(max_length=24, choices=choices(DeploymentState))
    generation = models.PositiveBigIntegerField(null=True)
    reason_code = models.CharField(max_length=60, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    # A final state never reopens: trying again is the next attempt, and only the latest counts.
    attempt = models.PositiveIntegerField(default=1)
    superseded = models.BooleanField(default=False)
    # An attempt before this one failed or timed out, and the site is not proven since.
    failed_before = models.BooleanField(default=False)
    # Penalty box: not offered before.
    not_before = models.DateTimeField(null=True)
    offered_at = models.DateTimeField(null=True)
    # The activation lease: how many were granted, when the last, and whether its slot is taken.
    lease = models.PositiveIntegerField(default=0)
    leased_at = models.DateTimeField(null=True)
    holds_lease = models.BooleanField(default=False)
    # Ended while its agent may hold the lease still: it counts as changing until the site speaks
    # of a newer wish.
    may_still_begin = models.BooleanField(default=False)
    # When it was asked for, by the agent's own clock (domain/admission.py, Instant).
    lease_boot = models.CharField(max_length=64, blank=True)
    lease_uptime = models.FloatField(null=True)
    # What the plan was made for; another accelerator at the time of the offer is another site.
    hardware = models.CharField(max_length=500, blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["stage", "site"]
        constraints = [
            models.UniqueConstraint(
                fields=["rollout", "site", "kind", "attempt"], name="one_deployment_per_attempt"
            ),
            models.UniqueConstraint(
                fields=["rollout", "site", "kind"],
                condition=Q(superseded=False),
                name="one_latest_deployment_per_rollout_site_kind",
            ),
            models.UniqueConstraint(
                fields=["site", "model"],
                condition=Q(state__in=sorted(s.value for s in ACTIVE_DEPLOYMENT)),
                name="one_active_deployment_per_site_and_model",
            ),
            models.CheckConstraint(
                name="deployment_state_known",
                condition=Q(state__in=[s.value for s in DeploymentState]),
            ),
        ]
        indexes = [
            models.Index(fields=["stage", "kind", "superseded", "state"], name="deployment_counts"),
            models.Index(fields=["leased_at"], name="deployment_leased_at"),
            models.Index(
                fields=["site"], condition=Q(may_still_begin=True), name="deployment_at_large"
            ),
            models.Index(fields=["site", "model", "state"], name="deployment_at_site"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.model} at {self.site}"


class BadVersion(models.Model):
    """A version that failed at a site. Nothing but a person's rollout brings it there again."""

    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="bad_versions")
    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="bad_at")
    reason = models.CharField(max_length=500)
    at = models.DateTimeField()

    class Meta:
        ordering = ["-at"]
        constraints = [
            models.UniqueConstraint(fields=["site", "version"], name="bad_once_per_site_version")
        ]

    def __str__(self) -> str:
        return f"{self.version} is bad at {self.site}"


class Freeze(models.Model):
    """Nothing is offered or activated at the sites it selects, until it is lifted or over."""

    selector = models.JSONField(default=dict)
    reason = models.CharField(max_length=400)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    until = models.DateTimeField(null=True)
    lifted_at = models.DateTimeField(null=True)
    lifted_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"freeze {self.pk} by {self.created_by}"


class Budget(models.Model):
    """What may change at once over all rollouts. One row, whose lock puts grants in order."""

    name = models.CharField(max_length=20, primary_key=True)
    # Share of the fleet's sites that may activate something within an hour. Null: no limit.
    changing_percent = models.PositiveIntegerField(
        null=True, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )

    def __str__(self) -> str:
        return self.name


class EngineBeat(models.Model):
    """When a part of the engine was last alive: `tick`, or `worker`."""

    name = models.CharField(max_length=40, primary_key=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.at:%H:%M:%S}"
