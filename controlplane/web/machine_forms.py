"""What people type about machines that call: API tokens, trusted publishers, signing keys.

A form checks what was typed for its form; its meaning is the services' to check."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django import forms
from django.http import QueryDict

from controlplane.accounts.models import Scope
from controlplane.accounts.publishers import MAX_MINUTES
from controlplane.accounts.services import MAX_LIFETIME, USUAL_LIFETIME
from controlplane.catalog.trust_chains import MAX_KEY_TEXT
from controlplane.web.forms import ConsoleForm, NamesField, PairsField

# A service names the place in its own arguments, the form in its fields.
FIELDS = {"lifetime": "days"}


class ScopesField(forms.MultipleChoiceField):
    """What a machine may do. Those that the person may not give are not offered."""

    def __init__(self) -> None:
        super().__init__(
            label="It may",
            choices=Scope.choices,
            widget=forms.CheckboxSelectMultiple,
            error_messages={
                "required": "Choose what it may do.",
                "invalid_choice": "%(value)s is no scope that you may give.",
            },
        )


class ScopedForm(ConsoleForm):
    """The scopes are narrowed to what the person may give; `withheld` says why not, by scope."""

    def __init__(self, *args: Any, withheld: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["scopes"]
        assert isinstance(field, forms.MultipleChoiceField)
        field.choices = [choice for choice in Scope.choices if choice[0] not in withheld]


class TokenForm(ScopedForm):
    """A token for a CI job or a script."""

    name = forms.CharField(max_length=100, help_text="What it is for, as events show it.")
    scopes = ScopesField()
    models = NamesField(
        label="Only for these models (optional)",
        help_text="Its writes may concern these alone; names, with commas or line breaks between.",
    )
    days = forms.IntegerField(
        label="Days until it ends",
        min_value=1,
        max_value=MAX_LIFETIME.days,
        initial=USUAL_LIFETIME.days,
        help_text=f"At most {MAX_LIFETIME.days}.",
    )

    def asked(self) -> dict[str, Any]:
        typed = self.cleaned_data
        return {
            "name": typed["name"],
            "scopes": typed["scopes"],
            "model_names": typed["models"],
            "lifetime": timedelta(days=typed["days"]),
        }


class PublisherForm(ScopedForm):
    """Which jobs of which issuer are trusted, and with what."""

    name = forms.CharField(
        max_length=63, help_text="Small letters, digits and dashes; it stays for ever."
    )
    issuer = forms.CharField(
        max_length=300,
        help_text="The claim iss, such as https://token.actions.githubusercontent.com.",
    )
    audience = forms.CharField(
        max_length=300, help_text="What the job asks its provider to write into aud."
    )
    claims = PairsField(
        help_text="One a line, each with its exact value, such as repository=acme/vad and "
        "ref=refs/heads/main."
    )
    scopes = ScopesField()
    models = NamesField(
        label="Only for these models (optional)",
        help_text="Names, with commas or line breaks between.",
    )
    minutes = forms.IntegerField(
        label="Minutes that a token lives", min_value=1, max_value=MAX_MINUTES, initial=15
    )

    def asked(self) -> dict[str, Any]:
        typed = dict(self.cleaned_data)
        models = typed.pop("models")
        return {**typed, "model_names": models}


class SigningKeyForm(ConsoleForm):
    """The public half of a key that may sign versions."""

    name = forms.CharField(
        max_length=63, help_text="Letters, digits, - and _; it stays for ever, as release-2027."
    )
    public_key = forms.CharField(
        label="Public key, as PEM",
        max_length=MAX_KEY_TEXT,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "autocapitalize": "none"}),
        help_text="It begins with BEGIN PUBLIC KEY. Never paste the private half.",
    )

    def forget_key(self) -> None:
        """Takes back what was pasted, so that a private key is not sent round again."""
        assert isinstance(self.data, QueryDict)  # what was posted
        cleaned = self.data.copy()
        cleaned["public_key"] = ""
        self.data = cleaned
