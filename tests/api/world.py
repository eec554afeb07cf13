"""One of everything that a path of the REST API can name, and how paths name it."""

import re
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any

from controlplane.accounts.models import ApiToken, Scope, TrustedPublisher, User
from controlplane.audit.models import Delivery
from controlplane.audit.webhooks import create_webhook, send_test
from controlplane.audit.webhooks_message import message_id
from controlplane.catalog.models import Channel, ImportedVersion, RegistryLink, SigningKey
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.services import create_window
from controlplane.rollouts.freezes import freeze_sites, lift_freeze
from tests.factories import ACTOR, make_joined_site, make_rollout, make_token, make_version

PERSON = "somebody"


@dataclass(kw_only=True)
class World:
    """`names`: for each parameter of a path what it may be, and for some paths something else."""

    names: dict[str, Any]
    by_prefix: dict[str, dict[str, Any]] = field(default_factory=dict)

    def path_parameters(self, path: str) -> dict[str, Any]:
        """For a path as the document writes it: `/api/v1/sites/{name}`."""
        names = dict(self.names)
        for prefix, others in self.by_prefix.items():
            if path.startswith(f"/api/v1/{prefix}/"):
                names |= others
        return {key: names[key] for key in re.findall(r"{(\w+)}", path)}

    def url(self, path: str) -> str:
        """The path below `/api/v1/`, with the names of what is there."""
        values = self.path_parameters(path)
        return re.sub(r"{(\w+)}", lambda found: str(values[found[1]]), path).removeprefix(
            "/api/v1/"
        )


def make_world(*, now: datetime) -> World:
    agent = make_joined_site("oslo", now=now)
    version = make_version(now=now)
    rollout = make_rollout(RolloutState.RUNNING, version=version, agents=[agent], now=now)
    webhook, _ = create_webhook(
        name="chat",
        url="https://chat.example/hook",
        actions=["*"],
        active=True,
        actor=ACTOR,
        now=now,
    )
    send_test(name=webhook.name, actor=ACTOR, now=now)
    window = create_window(
        fields={
            "name": "night",
            "kind": "activation",
            "selector": {"sites": ["nowhere"]},
            "days": ["mon"],
            "start": time(22, 0),
            "minutes": 60,
            "timezone": "",
        },
        actor=ACTOR,
        now=now,
    )
    freeze = freeze_sites(
        selector={"sites": ["oslo"]}, reason="a test", until=None, actor=ACTOR, now=now
    )
    lift_freeze(freeze_id=freeze.pk, reason="a test", actor=ACTOR, now=now)
    link = RegistryLink.objects.create(
        model=version.model, remote_name="vad", created_by=ACTOR, person=PERSON, created_at=now
    )
    imported = ImportedVersion.objects.create(
        link=link, remote_version="1", asked_by=ACTOR, asked_at=now
    )
    Channel.objects.create(model=version.model, name="stable")
    SigningKey.objects.create(
        name="release", public_key="", key_type="x", fingerprint="0" * 64, added_by=ACTOR,
        added_at=now,
    )  # fmt: skip
    user = User.objects.create(username=PERSON)
    publisher = TrustedPublisher.objects.create(
        name="ci-main",
        issuer="https://issuer.example",
        audience="waypost",
        claims={"sub": "x"},
        user=user,
        scopes=[Scope.PUSH],
        created_by=ACTOR,
        created_at=now,
    )
    # The person of the fixtures' token: tokens are seen by their own person alone.
    make_token(Scope.READ, now=now, lifetime=timedelta(hours=1))
    names = {
        "rollout_id": rollout.pk,
        "freeze_id": freeze.pk,
        "name": "vad",
        "model": "vad",
        "site": "oslo",
        "number": version.number,
        "channel": "stable",
        "link_id": link.pk,
        "import_id": imported.pk,
        "token_id": ApiToken.objects.order_by("pk")[0].pk,
        "sha256": version.manifest["files"][0]["sha256"],
        "stage": "all",
        "gate": "latency",
        "delivery_id": message_id(Delivery.objects.all()[0].pk),
    }
    by_prefix: dict[str, dict[str, Any]] = {
        "sites": {"name": "oslo"},
        "windows": {"name": window.name},
        "webhooks": {"name": webhook.name},
        "strategies": {"name": "edge-first"},
        "publishers": {"name": publisher.name},
        "signing-keys": {"name": "release"},
    }
    return World(names=names, by_prefix=by_prefix)
