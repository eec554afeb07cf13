"""Makes what a test needs, through the services that make it in earnest. Time is an argument.

`make_site`, `make_joined_site`, `make_version`, `make_rollout` (in a state of your choice),
`make_token`."""

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.accounts.models import Scope, User
from controlplane.accounts.services import create_api_token
from controlplane.catalog.approvals import approve_version
from controlplane.catalog.models import Model, UnsignedPolicy, Version, VersionState
from controlplane.catalog.services import create_version, finalise_version, store_blob
from controlplane.catalog.versions import retire
from controlplane.domain.manifest import SCHEMA
from controlplane.domain.rollout import FINAL_ROLLOUT, OnConflict, RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.fleet.identity import enrol_agent
from controlplane.fleet.models import Agent, Site
from controlplane.fleet.services import create_enrolment_token, create_site, retire_site
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.quarantine import quarantine_version
from controlplane.rollouts.services import advance_rollout, start_rollout
from controlplane.rollouts.turning_back import roll_back_rollout
from controlplane.rollouts.verbs import abort_rollout, pause_rollout
from tests.fake_agent import FakeAgent

ACTOR = "user:tests"
APPROVERS = ("bo", "cem")
ALL_AT_ONCE = (StageSpec(name="all", soak_seconds=0),)
_names = itertools.count(1)


def make_site(
    name: str = "",
    *,
    tier: str = "edge",
    region: str = "eu-west",
    labels: Mapping[str, str] | None = None,
    now: datetime,
    **envelope: float,
) -> Site:
    fields = {
        "name": name or f"site-{next(_names)}",
        "tier": tier,
        "region": region,
        "labels": dict(labels or {}),
        **envelope,
    }
    return create_site(fields=fields, actor=ACTOR, now=now)


def make_joined_site(
    name: str = "", *, tier: str = "edge", labels: Mapping[str, str] | None = None, now: datetime
) -> FakeAgent:
    """A site with an agent that has joined; `.site` is the site."""
    site = make_site(name, tier=tier, labels=labels, now=now)
    return join(site, now=now)


def join(site: Site, *, now: datetime) -> FakeAgent:
    """Its agent allows code of a version's author, and the floor of its Triton is waived: the
    versions made here run code, and no Triton is behind these agents."""
    key = Ed25519PrivateKey.generate()
    _, secret = create_enrolment_token(site=site, actor=ACTOR, now=now)
    agent = enrol_agent(
        token=secret,
        public_key=base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        hostname=f"{site.name}-1",
        agent_version="0.1.0",
        now=now,
    )
    Agent.objects.filter(pk=agent.pk).update(executable_allowed=True)
    site.floor_waiver, site.floor_waiver_by = "a test", ACTOR
    site.save(update_fields=["floor_waiver", "floor_waiver_by"])
    return FakeAgent(site=site, agent_id=agent.pk, key=key)


_CONFIG = """# {label}
backend: "{backend}"
max_batch_size: 0
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }} ]
"""


def version_files(label: str) -> dict[str, bytes]:
    """Paths and bytes of a version that runs code; other labels, other bytes."""
    return {
        "config.pbtxt": _CONFIG.format(label=label, backend="python").encode(),
        "golden.json": golden_file(label),
        "model.py": f"print({label!r})\n".encode(),
    }


def golden_file(label: str) -> bytes:
    tensor = {"datatype": "FP32", "shape": [1], "data": [0.0]}
    request = {
        "name": label,
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
    }
    return json.dumps({"schema": "waypost.golden/1", "requests": [request]}).encode()


def manifest_of(files: Mapping[str, bytes]) -> dict[str, object]:
    entries = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in sorted(files.items())
    ]
    return {"schema": SCHEMA, "files": entries}


def make_version(
    model: str = "vad",
    number: int | None = None,
    *,
    registered: bool = True,
    state: VersionState = VersionState.APPROVED,
    files: Mapping[str, bytes] | None = None,
    author: str = "ana",
    now: datetime,
) -> Version:
    """A version that went the real way to `state`, with its bytes in the artifact store unless it
    is still uploading (`registered=False` says the same). `registered` in earnest waits for a
    signature: its model refuses unsigned versions from then on."""
    files = files or version_files(f"{model} {next(_names)}")
    version, _ = create_version(
        model_name=model,
        number=number,
        manifest=manifest_of(files),
        actor=ACTOR,
        author=author,
        now=now,
    )
    if not registered or state is VersionState.UPLOADING:
        return version
    if state is VersionState.REGISTERED:
        Model.objects.filter(pk=version.model_id).update(unsigned=UnsignedPolicy.REFUSED)
    return lead_version(version, state, files, now=now)


def lead_version(
    version: Version, state: VersionState, files: Mapping[str, bytes], *, now: datetime
) -> Version:
    """Uploads what a reserved version names, finalises it, and leads it to `state`."""
    for data in files.values():
        digest = hashlib.sha256(data).hexdigest()
        store_blob(version=version, sha256=digest, stream=io.BytesIO(data), now=now)
    version = finalise_version(version=version, actor=ACTOR, now=now)
    if state in (VersionState.REGISTERED, VersionState.VALIDATED):
        assert version.state == state
        return version
    version = approve(version, now=now)
    by: dict[str, Any] = {"reason": "the test wants it", "actor": ACTOR, "now": now}
    if state is VersionState.QUARANTINED:
        name, number = version.model.name, version.number
        return quarantine_version(model_name=name, number=number, roll_back=False, **by)
    return retire(version=version, **by) if state is VersionState.RETIRED else version


def approve(version: Version, *people: str, now: datetime) -> Version:
    """As many of `people` as it takes say yes; it is approved then."""
    for person in people or APPROVERS:
        if version.state == VersionState.APPROVED:
            break
        version = approve_version(
            version=version,
            manifest_digest=version.manifest_digest,
            person=person,
            actor=f"user:{person}",
            now=now,
        )
    assert version.state == VersionState.APPROVED, version.state_reason
    return version


def make_rollout(
    state: RolloutState = RolloutState.PLANNED,
    *,
    version: Version | None = None,
    agents: Sequence[FakeAgent] = (),
    stages: Sequence[StageSpec] = ALL_AT_ONCE,
    note: str = "",
    now: datetime,
) -> Rollout:
    """A rollout that went the real way to `state`; without `agents` it makes one joined site.

    An active state is reached with the first stage offered and no agent having answered it.
    """
    version = version or make_version(now=now)
    agents = list(agents) or [make_joined_site(now=now)]
    if state is RolloutState.QUEUED:
        make_rollout(
            RolloutState.RUNNING,
            version=make_version(version.model.name, now=now),
            agents=agents,
            now=now,
        )
    leaver = None
    if state is RolloutState.SUCCEEDED_WITH_EXCEPTIONS:
        leaver = make_joined_site(now=now).site
    rollout = start_rollout(
        model_name=version.model.name,
        version_number=version.number,
        stages=stages,
        note=note,
        on_conflict=OnConflict.QUEUE,
        actor=ACTOR,
        now=now,
    )
    if leaver is not None:
        retire_site(site=leaver, reason="it is closed", actor=ACTOR, now=now)
    if state is RolloutState.SUPERSEDED:
        start_rollout(
            model_name=version.model.name,
            version_number=make_version(version.model.name, now=now).number,
            stages=stages,
            on_conflict=OnConflict.SUPERSEDE,
            actor=ACTOR,
            now=now,
        )
    if state is not RolloutState.PLANNED:
        _lead_to(state, rollout, agents, now)
    rollout.refresh_from_db()
    assert rollout.state == state
    return rollout


def _lead_to(
    state: RolloutState, rollout: Rollout, agents: Sequence[FakeAgent], now: datetime
) -> None:
    pk, model, target = rollout.pk, rollout.model.name, rollout.version.number
    by: dict[str, Any] = {"reason": "the test wants it", "actor": ACTOR, "now": now}
    advance_rollout(rollout_id=pk, now=now)
    if state in (RolloutState.QUEUED, RolloutState.SUPERSEDED):
        return
    if state is RolloutState.PAUSED:
        pause_rollout(rollout_id=pk, **by)
    elif state in (RolloutState.CANCELLING, RolloutState.CANCELLED):
        if state is RolloutState.CANCELLING:
            agents[0].report(model, "activating", now=now)
        abort_rollout(rollout_id=pk, **by)
    elif state is RolloutState.ROLLING_BACK:
        roll_back_rollout(rollout_id=pk, **by)
    if state in (RolloutState.ROLLED_BACK, RolloutState.ROLLBACK_INCOMPLETE):
        agents[0].broken.add((model, target))
    if state is RolloutState.ROLLBACK_INCOMPLETE:
        agents[0].broken.add((model, agents[0].serving.get(model)))
    if state in FINAL_ROLLOUT:
        settle(rollout, agents, now=now)


def settle(
    rollout: Rollout,
    agents: Sequence[FakeAgent],
    *,
    now: datetime,
    step: timedelta = timedelta(seconds=5),
    turns: int = 60,
) -> datetime:
    """Lets agents obey and the engine turn until the rollout is final; the time it is then."""
    for _ in range(turns):
        advance_rollout(rollout_id=rollout.pk, now=now)
        rollout.refresh_from_db()
        if rollout.state in FINAL_ROLLOUT:
            return now
        for agent in agents:
            agent.obey(now=now)
        now += step
    raise AssertionError(f"rollout {rollout.pk} is {rollout.state} still: {rollout.reason}")


def make_token(
    *scopes: str, now: datetime, name: str = "ci", lifetime: timedelta = timedelta(days=1)
) -> str:
    """The secret of an API token with these scopes (none: read)."""
    user, _ = User.objects.get_or_create(username=f"owner-of-{name}")
    _, secret = create_api_token(
        user=user,
        name=name,
        scopes=scopes or (Scope.READ,),
        lifetime=lifetime,
        actor=ACTOR,
        now=now,
    )
    return secret
