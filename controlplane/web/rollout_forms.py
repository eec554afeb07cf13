"""The forms of rollouts: starting one, and what is done to one."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from django import forms
from django.utils.timezone import now as current_time

from controlplane.catalog.models import Version, VersionState
from controlplane.domain.rollout import OnConflict, ResumeChoice
from controlplane.domain.selector import SiteSelector
from controlplane.domain.stages import MAX_SOAK_SECONDS
from controlplane.domain.strategies import StrategySpec
from controlplane.rollouts.strategies import find_strategy, strategies
from controlplane.web.choices import choices
from controlplane.web.forms import ConsoleForm, LabelsField, MomentField, NamesField, ReasonField
from controlplane.web.verbs import Situation, Verb

# A service names the place in its own document, the form in its fields.
START_FIELDS = {"exclude.sites": "exclude_sites", "exclude.labels": "exclude_labels"}


class VerbForm(ConsoleForm):
    """Why a verb is used, and on which part. Kept with the rollout and in the event log."""

    stage = forms.CharField(required=False, widget=forms.HiddenInput)
    site = forms.CharField(required=False, widget=forms.HiddenInput)
    plan_digest = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, verb: Verb, now: Situation, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        answers = choices(now) if verb.name == "resume" else []
        if answers:
            self.fields["choice"] = forms.ChoiceField(
                choices=[(answer.value, answer.label) for answer in answers],
                error_messages={"required": "Say what is to become of the cause of the pause."},
            )
        required = verb.reason_required or bool(answers)
        self.fields["reason"] = ReasonField("rollout", required=required)
        self.fields["reason"].widget.attrs["class"] = "form-control"

    def asked(self, verb: Verb, *, may_while_frozen: bool) -> dict[str, Any]:
        """What the service takes beside the rollout, the person and the time."""
        typed = self.cleaned_data
        asked: dict[str, Any] = {"reason": typed["reason"]}
        if verb.name == "approve":
            asked |= {"plan_digest": typed["plan_digest"], "stage_name": typed["stage"] or None}
        elif verb.name == "rollback":
            asked |= {
                "stage_name": typed["stage"] or None,
                "site_name": typed["site"] or None,
                "may_while_frozen": may_while_frozen,
            }
        elif verb.name == "resume" and "choice" in typed:
            asked |= {
                "choice": ResumeChoice(typed["choice"]),
                "may_while_frozen": may_while_frozen,
            }
        return asked


class VersionChoice(forms.ModelChoiceField):  # type: ignore[type-arg]  # not subscriptable at run time
    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.model.name} {obj.number}"


class StartForm(ConsoleForm):
    """A version and a strategy, and what this one rollout does otherwise."""

    version = VersionChoice(
        queryset=Version.objects.filter(state=VersionState.APPROVED)
        .select_related("model")
        .defer("manifest")
        .order_by("model__name", "-number"),
        empty_label="choose a version",
    )
    strategy = forms.ChoiceField()
    soak_seconds = forms.FloatField(
        label="Soak per stage, in seconds (optional)",
        min_value=0,
        max_value=MAX_SOAK_SECONDS,
        required=False,
        help_text="How long a stage must stay healthy before the next one starts; "
        "empty: as the strategy says.",
    )
    barrier = forms.ChoiceField(
        label="Stage everywhere",
        required=False,
        choices=[
            ("", "as the strategy says"),
            ("yes", "yes: all sites fetch the bytes at once, each activates in its stage"),
            ("no", "no: a site fetches them when its stage runs"),
        ],
    )
    exclude_sites = NamesField(
        label="Leave out these sites (optional)", help_text="Names, with commas or line breaks."
    )
    exclude_labels = LabelsField(
        label="Leave out sites with these labels (optional)",
        required=False,
        help_text="Such as rack=b; with several, who has all of them.",
    )
    start_at = MomentField(
        label="Start at (UTC, optional)", required=False, help_text="Empty: now."
    )
    on_conflict = forms.ChoiceField(
        label="If another rollout of the model is not over",
        choices=[
            (OnConflict.REFUSE.value, "do not start this one"),
            (OnConflict.QUEUE.value, "wait until it is over"),
            (OnConflict.SUPERSEDE.value, "stop it and take its place"),
        ],
        initial=OnConflict.REFUSE.value,
        required=False,
    )
    note = forms.CharField(label="Note (optional)", max_length=500, required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["strategy"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(spec.name, _title(spec)) for spec in strategies()]

    def clean_start_at(self) -> datetime | None:
        """Said here already, so that no plan is looked at which cannot be started."""
        at: datetime | None = self.cleaned_data["start_at"]
        if at is not None and at <= current_time():
            raise forms.ValidationError("This is in the past; leave it out to start now.")
        return at

    @property
    def conflict_rule(self) -> OnConflict:
        return OnConflict(self.cleaned_data["on_conflict"] or OnConflict.REFUSE)

    def asked(self, now: datetime) -> dict[str, Any]:
        """What is asked of the services, for a plan and for the run alike."""
        typed = self.cleaned_data
        spec = find_strategy(typed["strategy"])
        soak, wanted = typed["soak_seconds"], typed["barrier"]
        if soak is not None:
            stages = tuple(replace(stage, soak_seconds=soak) for stage in spec.stages)
            spec = replace(spec, stages=stages)
        return {
            "model_name": typed["version"].model.name,
            "version_number": typed["version"].number,
            "strategy": spec,
            "exclude": self._exclude(),
            "barrier": wanted == "yes" if wanted else spec.barrier,
            "start_at": typed["start_at"],
            "now": now,
        }

    def _exclude(self) -> SiteSelector | None:
        names, labels = self.cleaned_data["exclude_sites"], self.cleaned_data["exclude_labels"]
        if not names and not labels:
            return None
        return SiteSelector(sites=frozenset(names) if names else None, labels=labels)


def _title(spec: StrategySpec) -> str:
    title = spec.title or ", ".join(stage.name for stage in spec.stages)
    return f"{spec.name}: {title}"
