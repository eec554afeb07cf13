"""What is taken from machines: a token, the trust in a CI job, a signing key."""

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.accounts.models import User
from controlplane.accounts.publishers import find_publisher, revoke_publisher
from controlplane.accounts.services import find_token, revoke_api_token
from controlplane.catalog.signing_keys import find_signing_key, revoke_signing_key
from controlplane.web.access import (
    REVOKE_KEY,
    REVOKE_PUBLISHER,
    actor_of,
    console_page,
    require,
)
from controlplane.web.acts import Act, ask_and_do
from controlplane.web.forms import ReasonForm


@console_page
def end_token(request: HttpRequest, token_id: int) -> HttpResponse:
    """One's own; nobody needs a right for it."""
    assert isinstance(request.user, User)
    token = find_token(request.user, token_id)
    act = Act(
        title=f"Revoke token {token.name}",
        label="Revoke",
        icon="stop",
        danger=True,
        effect=["It opens nothing from its next request on.", "It cannot be taken back."],
        back=reverse("tokens"),
        back_label="API tokens",
        why_not=f"{token.name} is revoked already." if token.revoked_at else "",
    )

    def do(typed: dict[str, str]) -> str:
        revoke_api_token(
            token=token, reason=typed["reason"], actor=actor_of(request), now=current_time()
        )
        return f"Token {token.name} is revoked."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="token"), do)


@console_page
def distrust(request: HttpRequest, name: str) -> HttpResponse:
    require(request, REVOKE_PUBLISHER)
    publisher = find_publisher(name)
    act = Act(
        title=f"Stop trusting {name}",
        label="Stop trusting it",
        icon="stop",
        danger=True,
        effect=[
            "Nothing more is traded in for its jobs.",
            f"Tokens that they have live on to their end, at most {publisher.minutes} minutes.",
        ],
        back=reverse("publishers"),
        back_label="Trusted publishers",
        why_not=f"{name} is not trusted any more." if publisher.revoked_at else "",
    )

    def do(typed: dict[str, str]) -> str:
        revoke_publisher(
            publisher=publisher,
            reason=typed["reason"],
            actor=actor_of(request),
            now=current_time(),
        )
        return f"{name} is not trusted any more."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="publisher"), do)


@console_page
def revoke_key(request: HttpRequest, name: str) -> HttpResponse:
    require(request, REVOKE_KEY)
    key = find_signing_key(name)
    act = Act(
        title=f"Revoke signing key {name}",
        label="Revoke",
        icon="stop",
        danger=True,
        effect=[
            "Its signatures count no more: versions that stood by it alone and are not approved "
            "yet wait for a signature again. Approved ones stay so; quarantine those you doubt.",
            "Sites have keys of their own in agent.toml: take it out there too.",
            "It cannot be taken back.",
        ],
        back=reverse("signing-keys"),
        back_label="Signing keys",
        why_not=f"{name} is revoked already." if key.revoked_at else "",
    )

    def do(typed: dict[str, str]) -> str:
        revoke_signing_key(
            name=name, reason=typed["reason"], actor=actor_of(request), now=current_time()
        )
        return f"Signing key {name} is revoked."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="key"), do)
