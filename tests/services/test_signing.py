"""What a signature, or its end, does to a version that waits."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from waypost_agent.protocol import MAX_SIGNATURES
from waypost_cli.signing import SigningKey as PrivateKey
from waypost_cli.signing import sign_files

from controlplane.audit.models import Event
from controlplane.catalog.models import (
    Model,
    SigningKey,
    UnsignedPolicy,
    Version,
    VersionSignature,
)
from controlplane.catalog.signatures import (
    require_standing,
    signature_standing,
    wished_signatures,
)
from controlplane.catalog.signing import attach_signature
from controlplane.catalog.signing_keys import add_signing_key, live_keys, revoke_signing_key
from controlplane.catalog.trust_chains import CHAINS, OMS, parse_public_key
from controlplane.catalog.versions import settle
from controlplane.domain.errors import Conflict, InvalidInput, NotFound
from controlplane.rollouts.planning import plan_rollout, require_still_usable
from controlplane.rollouts.services import start_rollout
from tests.factories import ACTOR, make_joined_site, make_version

pytestmark = pytest.mark.django_db

EXAMPLES = json.loads(
    (Path(__file__).parents[2] / "docs/protocol/signatures.json").read_text(encoding="utf-8")
)


class Signer:
    """Holds a private key that the catalogue knows the public half of."""

    def __init__(self, name: str, now: datetime) -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        add_signing_key(name=name, public_key=pem, actor=ACTOR, now=now)

    def bundle(self, version: Version) -> bytes:
        files = dict(version.files.values_list("path", "sha256"))
        key = PrivateKey(fingerprint="", key=self._key)
        return sign_files(files, subject="any", key=key)

    def sign(self, version: Version, now: datetime) -> bool:
        bundle = self.bundle(version)
        return attach_signature(version=version, bundle=bundle, actor=ACTOR, now=now)[1]


@pytest.fixture
def signer(now: datetime) -> Signer:
    return Signer("release", now)


@pytest.fixture
def version(now: datetime) -> Version:
    """Uploading yet, of a model that refuses unsigned versions."""
    version = make_version("vad", 1, registered=False, now=now)
    Model.objects.update(unsigned=UnsignedPolicy.REFUSED, approvals_needed=1)
    return version


def state_of(version: Version) -> str:
    return str(Version.objects.values_list("state", flat=True).get(pk=version.pk))


def waiting(version: Version, now: datetime) -> None:
    Version.objects.filter(pk=version.pk).update(state="registered")
    settle(Version.objects.get(pk=version.pk), now=now)


def test_a_version_that_waited_for_its_signature_moves_on(
    signer: Signer, version: Version, now: datetime
) -> None:
    waiting(version, now)
    assert state_of(version) == "registered"

    assert signer.sign(version, now)

    assert state_of(version) == "validated"


def test_it_goes_back_when_the_only_key_is_revoked_and_not_when_another_stands(
    signer: Signer, version: Version, now: datetime
) -> None:
    waiting(version, now)
    second = Signer("second", now)
    assert signer.sign(version, now)
    assert second.sign(version, now)

    revoke_signing_key(name="second", reason="", actor=ACTOR, now=now)
    assert state_of(version) == "validated"
    revoke_signing_key(name="release", reason="it leaked", actor=ACTOR, now=now)
    assert state_of(version) == "registered"


def test_a_key_counts_once(signer: Signer, version: Version, now: datetime) -> None:
    assert signer.sign(version, now)
    assert not signer.sign(version, now)
    assert VersionSignature.objects.count() == 1
    assert Event.objects.filter(action="version.signed").count() == 1


def test_every_change_is_a_new_revision(signer: Signer, version: Version, now: datetime) -> None:
    before = Version.objects.get(pk=version.pk).revision
    signer.sign(version, now)
    after = Version.objects.get(pk=version.pk).revision
    signer.sign(version, now)
    assert after > before
    assert Version.objects.get(pk=version.pk).revision == after


def test_two_versions_of_a_model_do_not_share_a_signature(
    signer: Signer, version: Version, now: datetime
) -> None:
    other = make_version("vad", 2, registered=False, now=now)
    with pytest.raises(InvalidInput) as caught:
        attach_signature(version=other, bundle=signer.bundle(version), actor=ACTOR, now=now)
    assert caught.value.code == "signature-mismatch"


def test_a_discarded_version_is_not_signed(signer: Signer, version: Version, now: datetime) -> None:
    bundle = signer.bundle(version)
    Version.objects.filter(pk=version.pk).delete()
    with pytest.raises(NotFound):
        attach_signature(version=version, bundle=bundle, actor=ACTOR, now=now)


def test_standing_names_the_live_keys(signer: Signer, version: Version, now: datetime) -> None:
    with pytest.raises(Conflict) as caught:
        require_standing(Version.objects.get(pk=version.pk))
    assert caught.value.code == "signature-required"
    second = Signer("a-second", now)
    signer.sign(version, now)
    second.sign(version, now)

    row = Version.objects.select_related("model").get(pk=version.pk)
    assert require_standing(row).signed_by == ("a-second", "release")
    assert signature_standing(row).sentence == "It is signed by a-second, release."


def test_an_approved_version_starts_no_rollout_once_its_only_key_is_revoked(
    signer: Signer, now: datetime
) -> None:
    make_joined_site("edge", now=now)
    version = make_version("ocr", 1, now=now)
    signer.sign(version, now)
    Model.objects.update(unsigned=UnsignedPolicy.REFUSED)
    planned = plan_rollout(model_name="ocr", version_number=1, now=now).version
    require_still_usable(planned)

    revoke_signing_key(name="release", reason="it leaked", actor=ACTOR, now=now)

    assert state_of(version) == "approved"
    for attempt in (
        lambda: plan_rollout(model_name="ocr", version_number=1, now=now),
        lambda: start_rollout(model_name="ocr", version_number=1, actor=ACTOR, now=now),
        lambda: require_still_usable(planned),  # revoked while the rollout was being started
    ):
        with pytest.raises(Conflict) as caught:
            attempt()
        assert caught.value.code == "signature-required"
        assert "signed only by release, which was revoked" in caught.value.detail
    Signer("second", now).sign(version, now)
    assert start_rollout(model_name="ocr", version_number=1, actor=ACTOR, now=now).pk


@pytest.mark.parametrize("policy", [UnsignedPolicy.ALLOWED, UnsignedPolicy.WARNED])
def test_where_unsigned_versions_may_be_used_a_revoked_key_stops_no_rollout(
    policy: UnsignedPolicy, signer: Signer, now: datetime
) -> None:
    make_joined_site("edge", now=now)
    version = make_version("ocr", 1, now=now)
    signer.sign(version, now)
    Model.objects.update(unsigned=policy)
    revoke_signing_key(name="release", reason="it leaked", actor=ACTOR, now=now)
    assert start_rollout(model_name="ocr", version_number=1, actor=ACTOR, now=now).pk


def given_to_agents(version: Version) -> list[str]:
    """Fingerprints of the keys whose signatures agents get, in their order."""
    keys = [
        parse_public_key(pem) for pem in SigningKey.objects.values_list("public_key", flat=True)
    ]
    files = dict(version.files.values_list("path", "sha256"))
    bundles = [
        json.dumps(each["bundle"]).encode()
        for each in wished_signatures([version.pk, 0])[version.pk]
    ]
    return [CHAINS[OMS].verify(bundle, keys, files).fingerprint for bundle in bundles]


def test_agents_are_given_also_what_counts_no_more_here(
    signer: Signer, version: Version, now: datetime
) -> None:
    """Sites have lists of their own: one that trusts the key yet would lose its way back."""
    second = Signer("second", now)
    signer.sign(version, now)
    second.sign(version, now)
    fingerprints = dict(SigningKey.objects.values_list("name", "fingerprint"))

    revoke_signing_key(name="second", reason="", actor=ACTOR, now=now)
    assert given_to_agents(version) == [fingerprints["release"], fingerprints["second"]]

    revoke_signing_key(name="release", reason="", actor=ACTOR, now=now + timedelta(hours=1))
    assert given_to_agents(version) == [fingerprints["release"], fingerprints["second"]]
    row = Version.objects.select_related("model").get(pk=version.pk)
    assert signature_standing(row).signed_by == ()


def test_agents_are_given_no_more_than_they_take(
    signer: Signer, version: Version, now: datetime
) -> None:
    signer.sign(version, now)
    for at in range(MAX_SIGNATURES):
        Signer(f"old-{at}", now).sign(version, now)
        revoke_signing_key(name=f"old-{at}", reason="", actor=ACTOR, now=now)
    given = given_to_agents(version)
    assert len(given) == MAX_SIGNATURES
    assert given[0] == SigningKey.objects.get(name="release").fingerprint


def test_the_examples_whose_files_are_several_builds_are_taken_whole(now: datetime) -> None:
    add_signing_key(name="p256", public_key=EXAMPLES["keys"]["p256"]["pem"], actor=ACTOR, now=now)
    (case,) = (c for c in EXAMPLES["cases"] if c["files"] == "builds")
    found = CHAINS[OMS].verify(case["bundle"].encode(), live_keys(), EXAMPLES["files"]["builds"])
    assert found.differences == ()
