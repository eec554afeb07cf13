"""What people type about models, versions and channels.

A form checks what was typed for its form; its meaning is the services' to check."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django import forms

from controlplane.catalog.model_settings import MAX_APPROVALS, MAX_DESCRIPTION, MAX_QUOTA_BYTES
from controlplane.catalog.models import DriftPolicy, Model, UnsignedPolicy
from controlplane.catalog.versions import MAX_NOTES
from controlplane.rollouts.strategies import strategies
from controlplane.web.forms import ConsoleForm, PairsField, ReasonField

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,6})?)\s*(B|KiB|MiB|GiB|TiB)?", re.ASCII | re.IGNORECASE)


class SizeField(forms.CharField):
    """Bytes, such as `20 GiB`; a whole number, None for nothing."""

    def clean(self, value: Any) -> int | None:
        text = str(super().clean(value)).strip()
        if not text:
            return None
        found = _SIZE.fullmatch(text)
        if not found:
            raise forms.ValidationError("This is no size: write it as 20 GiB, or in bytes.")
        units = {unit.lower(): size for unit, size in _UNITS.items()}
        size = int(Decimal(found[1]) * units[(found[2] or "").lower()])
        if not 1 <= size <= MAX_QUOTA_BYTES:
            raise forms.ValidationError("This is no size that bytes are counted to.")
        return size


def size_words(size: int | None) -> str:
    """As `SizeField` reads it, without loss: the largest unit that leaves no rest."""
    if size is None:
        return ""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]} {unit}"
    return str(size)


def _focus_first(form: forms.Form) -> None:
    """A dialog puts the reader where the asking begins."""
    for field in form.fields.values():
        field.widget.attrs.pop("autofocus", None)
    form.visible_fields()[0].field.widget.attrs["autofocus"] = True


class ApproveForm(ConsoleForm):
    """A yes to the bytes that were looked at: their digest travels with the question."""

    # Not required by the form, which could not show it: the service refuses other bytes, and none.
    manifest_digest = forms.CharField(required=False, max_length=71, widget=forms.HiddenInput)
    reason = ReasonField("version", required=False)


class NotesForm(ConsoleForm):
    """What people say of a version, which its bytes do not."""

    labels = PairsField(
        required=False, label="Labels", help_text="One a line, such as quality=measured."
    )
    notes = forms.CharField(
        required=False, max_length=MAX_NOTES, widget=forms.Textarea(attrs={"rows": 6})
    )

    def __init__(self, *args: Any, labels_writable: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not labels_writable:
            del self.fields["labels"]
        _focus_first(self)


class PolicyForm(ConsoleForm):
    """What a model asks of its versions."""

    description = forms.CharField(required=False, max_length=MAX_DESCRIPTION)
    approvals_needed = forms.IntegerField(
        label="People who must approve a version",
        min_value=0,
        max_value=MAX_APPROVALS,
        help_text="Of class data; one that runs code needs two others than its author at least.",
    )
    unsigned = forms.ChoiceField(label="Versions that nobody signed", choices=UnsignedPolicy)
    drift_policy = forms.ChoiceField(
        label="When a site serves another version than wished for",
        choices=[
            (DriftPolicy.CORRECT.value, "correct it"),
            (DriftPolicy.HOLD.value, "hold: leave it, and say so"),
            (DriftPolicy.ADOPT.value, "adopt: wish for what it serves"),
        ],
    )
    quota_versions = forms.IntegerField(
        label="Versions at most (optional)", required=False, min_value=1, max_value=2**31 - 1
    )
    quota_bytes = SizeField(
        label="Bytes of all versions at most (optional)",
        required=False,
        max_length=40,
        help_text="Such as 20 GiB; empty for no limit.",
    )
    reason = ReasonField("model", required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].help_text = "Needed where less is asked than before."
        _focus_first(self)

    @staticmethod
    def initial_of(model: Model) -> dict[str, object]:
        names = ("description", "approvals_needed", "unsigned", "drift_policy", "quota_versions")
        found: dict[str, object] = {name: getattr(model, name) for name in names}
        return {**found, "quota_bytes": size_words(model.quota_bytes)}


class MoveForm(ConsoleForm):
    """Where a channel is to point, and what that starts. With `name` it is a new one."""

    name = forms.CharField(
        max_length=40, help_text="Small letters, digits, - and _; such as stable or candidate."
    )
    version = forms.TypedChoiceField(coerce=int, empty_value=None)
    strategy = forms.ChoiceField(label="What the move starts", required=False)
    reason = ReasonField("channel")

    def __init__(
        self, *args: Any, numbers: Sequence[int], stored: str | None, **kwargs: Any
    ) -> None:
        """`numbers` of the approved versions; `stored` is the strategy of a channel that there is
        already, None: it is to be made."""
        super().__init__(*args, **kwargs)
        if stored is not None:
            del self.fields["name"]
        version, strategy = self.fields["version"], self.fields["strategy"]
        assert isinstance(version, forms.ChoiceField)
        assert isinstance(strategy, forms.ChoiceField)
        version.choices = [("", "choose a version"), *((n, f"version {n}") for n in numbers)]
        names = [spec.name for spec in strategies()]
        kept = [stored] if stored and stored not in names else []
        strategy.choices = [
            ("", "nothing: only the name moves"),
            *((name, f"a rollout by {name}") for name in [*kept, *names]),
        ]
        _focus_first(self)
