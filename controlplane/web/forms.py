"""What people type into the console. Checks its form; its meaning is the services' to check."""

from datetime import datetime
from typing import Any

from django import forms

from controlplane.catalog.models import Version, VersionState
from controlplane.domain.errors import InvalidInput
from controlplane.domain.selection import MAX_SOAK_SECONDS, parse_stages
from controlplane.fleet.models import Tier
from controlplane.web.verbs import Verb

STRATEGIES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "percent": (
        "by share: 10 %, then half of the rest, then all",
        [
            {"name": "canary", "select": {"percent": 10}},
            {"name": "half", "select": {"percent": 50}},
            {"name": "rest", "select": {}},
        ],
    ),
    "edge-first": (
        "by tier: edge, then regional, then hyperscale",
        [
            {"name": "edge", "select": {"tier": "edge"}},
            {"name": "regional", "select": {"tier": "regional"}},
            {"name": "hyperscale", "select": {"tier": "hyperscale"}},
        ],
    ),
    "at-once": ("all sites at once", [{"name": "all", "select": {}}]),
}


def add_faults(form: forms.Form, error: InvalidInput) -> None:
    """A service's refusal where the person will look: at the field, else above the form."""
    for fault in error.errors:
        known = fault.field in form.fields
        form.add_error(fault.field if known else None, fault.message)
    if not error.errors:
        form.add_error(None, error.detail)


class ConsoleForm(forms.Form):
    """Marks the widgets for the style sheet and ties messages to fields for screen readers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        for field in self.fields.values():
            chosen = isinstance(field.widget, forms.Select)
            field.widget.attrs["class"] = "form-select" if chosen else "form-control"


class ReasonForm(ConsoleForm):
    """Why a verb is used. Kept with the rollout and in the event log."""

    reason = forms.CharField(
        max_length=400, strip=True, widget=forms.Textarea(attrs={"rows": 3, "autofocus": True})
    )

    def __init__(self, verb: Verb, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = verb.reason_required
        self.fields["reason"].label = "Reason" if verb.reason_required else "Reason (optional)"
        self.fields["reason"].error_messages["required"] = "Say why; it is kept with the rollout."


class SiteForm(ConsoleForm):
    """The least a site needs; the rest can be stated later."""

    name = forms.SlugField(
        max_length=63, help_text="Letters, digits, - and _; it stays for ever, such as fra-edge-1."
    )
    tier = forms.ChoiceField(choices=Tier.choices)
    region = forms.CharField(max_length=63, help_text="Such as eu-west.")


class VersionChoice(forms.ModelChoiceField):  # type: ignore[type-arg]  # not subscriptable at run time
    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.model.name} {obj.number}"


class StartForm(ConsoleForm):
    """A version and a usual order of sites. Free stages go through the API and the CLI."""

    version = VersionChoice(
        queryset=Version.objects.filter(state=VersionState.REGISTERED)
        .select_related("model")
        .defer("manifest")
        .order_by("model__name", "-number"),
        empty_label="choose a version",
    )
    strategy = forms.ChoiceField(
        label="Order of sites", choices=[(key, text) for key, (text, _) in STRATEGIES.items()]
    )
    soak_seconds = forms.FloatField(
        label="Soak per stage, in seconds",
        min_value=0,
        max_value=MAX_SOAK_SECONDS,
        initial=60,
        help_text="How long every site of a stage must stay healthy before the next stage starts.",
    )
    note = forms.CharField(label="Note (optional)", max_length=500, required=False)

    def asked(self, now: datetime) -> dict[str, Any]:
        """What is asked of the services, for a plan and for the run alike."""
        _, stages = STRATEGIES[self.cleaned_data["strategy"]]
        soak, version = self.cleaned_data["soak_seconds"], self.cleaned_data["version"]
        return {
            "model_name": version.model.name,
            "version_number": version.number,
            "stages": parse_stages([{**stage, "soak_seconds": soak} for stage in stages]),
            "now": now,
        }
