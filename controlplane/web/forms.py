"""What people type into the console: the base, and forms about sites, freezes, versions.

A form checks what was typed for its form; its meaning is the services' to check."""

import json
import re
from collections.abc import Mapping
from typing import Any

from django import forms

from controlplane.domain.errors import InvalidInput
from controlplane.fleet.models import Tier

# As a browser's date and time field sends it; the footer of every page says that times are UTC.
_MINUTES = "%Y-%m-%dT%H:%M"


def add_faults(form: forms.Form, error: InvalidInput, fields: dict[str, str] | None = None) -> None:
    """A service's refusal where the person will look: at the field (`fields`: its name in the form
    by the service's), else above the form with its place."""
    for fault in error.errors:
        field = (fields or {}).get(fault.field, fault.field)
        whole = re.split(r"[.\[]", field, maxsplit=1)[0]
        if field in form.fields:
            form.add_error(field, fault.message)
        elif whole in form.fields:  # one entry of it, as claims.ref or scopes[1]
            form.add_error(whole, f"{fault.field}: {fault.message}")
        else:
            form.add_error(None, f"{fault.field}: {fault.message}")
    if not error.errors:
        form.add_error(None, error.detail)


class ConsoleForm(forms.Form):
    """Marks the widgets for the style sheet and ties messages to fields for screen readers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        for field in self.fields.values():
            if isinstance(field.widget, forms.RadioSelect | forms.CheckboxInput):
                field.widget.attrs["class"] = "form-check-input"
            else:
                chosen = isinstance(field.widget, forms.Select)
                field.widget.attrs["class"] = "form-select" if chosen else "form-control"


class ReasonField(forms.CharField):
    """Why something is done."""

    def __init__(self, kept_with: str, *, required: bool = True) -> None:
        super().__init__(
            label="Reason" if required else "Reason (optional)",
            required=required,
            max_length=400,
            strip=True,
            widget=forms.Textarea(attrs={"rows": 3, "autofocus": True}),
            error_messages={"required": f"Say why; it is kept with the {kept_with}."},
        )


class MomentField(forms.DateTimeField):
    """A minute in UTC."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format=_MINUTES)
        super().__init__(widget=widget, input_formats=[_MINUTES, "%Y-%m-%d %H:%M"], **kwargs)


class NamesField(forms.CharField):
    """Names of sites, one a line or with commas between; a list."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, widget=forms.Textarea(attrs={"rows": 2}), **kwargs)

    def clean(self, value: Any) -> list[str]:
        return str(super().clean(value)).replace(",", " ").split()


class LabelsField(forms.CharField):
    """Labels such as `ring=0, rack=b`; a mapping."""

    def clean(self, value: Any) -> dict[str, str]:
        found = {}
        for word in str(super().clean(value)).replace(",", " ").split():
            key, equals, text = word.partition("=")
            if not (key and equals and text):
                raise forms.ValidationError(f"{word!r} must be a label and its value, as ring=0.")
            found[key] = text
        return found


class PairsField(forms.CharField):
    """One `name=value` a line; a mapping. A value may hold anything but a line break."""

    def __init__(self, **kwargs: Any) -> None:
        attrs = {"rows": 4, "spellcheck": "false", "autocapitalize": "none"}
        super().__init__(strip=False, widget=forms.Textarea(attrs=attrs), **kwargs)

    def clean(self, value: Any) -> dict[str, str]:
        return self.read(str(super().clean(value)))

    @staticmethod
    def read(text: str) -> dict[str, str]:
        """Raises `ValidationError`."""
        found: dict[str, str] = {}
        for line in filter(str.strip, text.replace("\r\n", "\n").split("\n")):
            name, equals, value = line.partition("=")
            name = name.strip()
            if not (name and equals):
                raise forms.ValidationError(f"{line[:80]!r} must be a name and its value, as a=b.")
            if name in found:
                raise forms.ValidationError(f"{name[:80]!r} is there twice.")
            found[name] = value.strip()
        return found

    @staticmethod
    def write(pairs: Mapping[str, str]) -> str:
        return "\n".join(f"{name}={value}" for name, value in pairs.items())

    @classmethod
    def keeps(cls, pairs: Mapping[str, str]) -> bool:
        """Whether these can be written one a line and read back as they were."""
        try:
            return cls.read(cls.write(pairs)) == dict(pairs)
        except forms.ValidationError:
            return False


class ReasonForm(ConsoleForm):
    """Nothing but why."""

    def __init__(self, *args: Any, kept_with: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"] = ReasonField(kept_with)
        self.fields["reason"].widget.attrs["class"] = "form-control"


class QuarantineForm(ConsoleForm):
    """Takes a version out of use."""

    reason = ReasonField("version")
    roll_back = forms.BooleanField(
        label="Roll back its rollout too",
        required=False,
        help_text="Sites that this rollout brought the version to return to what they had.",
    )


class SiteForm(ConsoleForm):
    """The least a site needs; the rest can be stated later."""

    name = forms.SlugField(
        max_length=63, help_text="Letters, digits, - and _; it stays for ever, such as fra-edge-1."
    )
    tier = forms.ChoiceField(choices=Tier.choices)
    region = forms.CharField(max_length=63, help_text="Such as eu-west.")


class FreezeForm(ConsoleForm):
    """Whom a freeze holds, why and for how long. The whole fleet has to be said in words: an empty
    selection could be a slip."""

    scope = forms.ChoiceField(
        label="What is frozen",
        choices=[("fleet", "The whole fleet"), ("some", "Only the sites that match all of this:")],
        initial="fleet",
        widget=forms.RadioSelect,
    )
    tier = forms.ChoiceField(choices=[("", "any"), *Tier.choices], required=False)
    region = forms.ChoiceField(required=False)
    labels = LabelsField(required=False, help_text="Such as ring=0, rack=b.")
    sites = NamesField(help_text="Names, with commas or line breaks between.")
    reason = ReasonField("freeze, and everybody who waits reads it")
    until = MomentField(
        label="Until (UTC, optional)", required=False, help_text="Else until somebody lifts it."
    )

    def __init__(self, *args: Any, regions: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["region"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "any"), *((region, region) for region in regions)]
        del self.fields["reason"].widget.attrs["autofocus"]  # not the first thing on its page

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        named = any(cleaned.get(key) for key in ("tier", "region", "labels", "sites"))
        if cleaned.get("scope") == "fleet" and named:
            self.add_error("scope", "Choose the matching sites, or leave their fields empty.")
        if cleaned.get("scope") == "some" and not named and not self.errors:
            self.add_error("scope", "Say which sites: a tier, a region, labels or names.")
        return cleaned

    def selector(self) -> dict[str, object]:
        keys = ("tier", "region", "labels", "sites")
        return {key: self.cleaned_data[key] for key in keys if self.cleaned_data[key]}


class BudgetForm(ConsoleForm):
    """How much of the fleet may change within an hour."""

    changing_percent = forms.IntegerField(
        label="Per cent of all sites that may change within an hour",
        required=False,
        min_value=1,
        max_value=100,
        help_text="A whole number from 1 to 100; empty for no limit. It holds over all rollouts.",
    )
    reason = ReasonField("budget")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.fields["reason"].widget.attrs["autofocus"]


class StrategyForm(ConsoleForm):
    """A strategy as its document; every fault of it is told with the place where it is."""

    document = forms.CharField(
        label="Strategy, as JSON",
        max_length=100_000,
        widget=forms.Textarea(attrs={"rows": 22, "spellcheck": "false", "autocapitalize": "none"}),
    )

    def clean_document(self) -> Any:
        try:
            document = json.loads(self.cleaned_data["document"])
            # What a database could not keep: half a character, and NUL.
            kept = json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise forms.ValidationError("A text in it holds half a character.") from error
        except (ValueError, RecursionError) as error:
            at = getattr(error, "lineno", None)
            where = f"line {at}: {getattr(error, 'msg', '')}" if at else str(error)
            raise forms.ValidationError(f"This is not JSON: {where}.") from error
        if rb"\u0000" in kept:
            raise forms.ValidationError("A text in it holds a NUL character.")
        return document
