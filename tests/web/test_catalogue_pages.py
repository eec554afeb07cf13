"""The pages of models and versions: where a version stands and who ends it, what is done to it by
its page, channels, policy, registry, and which sites can take it."""

import hashlib
import io
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from controlplane.accounts.models import User
from controlplane.audit.models import Event
from controlplane.catalog.approvals import approve_version
from controlplane.catalog.models import (
    Channel,
    ImportedVersion,
    ImportState,
    Model,
    Version,
    VersionState,
)
from controlplane.catalog.services import store_blob
from controlplane.fleet.models import Agent, Lease, Server, Site
from controlplane.rollouts.models import SiteModel
from controlplane.web.catalog_forms import SizeField, size_words
from controlplane.web.forms import PairsField
from controlplane.web.version_facts import safe_href
from tests.factories import make_joined_site, make_version, version_files
from tests.services.test_variants import make_builds, site_with
from tests.web.catalogue import SECRETIVE, Catalogue, catalogue_paths, make_catalogue
from tests.web.conftest import text_of
from tests.web.test_every_page import EVIL

pytestmark = pytest.mark.django_db
WHY = {"reason": "because"}


@pytest.fixture
def made(operator: User, now: datetime) -> Catalogue:
    return make_catalogue(operator, now=now)


def give(user: User, *codenames: str) -> None:
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))


def approve(client: Client, version: Version, digest: str = "") -> Any:
    form = {"manifest_digest": digest or version.manifest_digest, "reason": ""}
    return client.post(f"/models/{version.model.name}/{version.number}/approve/", form)


# Every page


def test_every_page_of_the_catalogue_answers_without_inline_code(
    olga: Client, made: Catalogue
) -> None:
    for path in catalogue_paths(made):
        response = olga.get(path)
        assert response.status_code == 200, path
        html = text_of(response)
        assert "<h1" in html, path
        for inline in (" style=", "<style", " onclick", "<script>"):
            assert inline not in html, path


def test_a_stranger_is_sent_to_the_login_from_each(made: Catalogue) -> None:
    for path in catalogue_paths(made):
        response = Client().get(path)
        assert response.status_code == 302, path
        assert response["Location"].startswith("/login/?next="), path


def test_hostile_words_of_pushers_and_people_stay_words(
    olga: Client, made: Catalogue, now: datetime
) -> None:
    Version.objects.filter(pk=made.served.pk).update(
        labels={EVIL: EVIL}, notes=EVIL, warnings=[EVIL], author=EVIL[:150], state_reason=EVIL,
        lineage={"git_repository": EVIL, "dataset": f"https://x/{EVIL}", "metrics": {EVIL: 1}},
    )  # fmt: skip
    ImportedVersion.objects.update(reason=EVIL, source_uri=EVIL)
    Channel.objects.update(outcome=EVIL, moved_by=EVIL[:150])
    Model.objects.update(description=EVIL)
    Site.objects.update(floor_waiver=EVIL)
    Agent.objects.update(trust={"unsigned": EVIL, "keys": [EVIL]})
    for path in [*catalogue_paths(made), "/models/vad/1/fit/?selector=%3Cscript%3E"]:
        html = text_of(olga.get(path))
        assert "<script>alert" not in html, path
        assert "<img src=x" not in html, path


def test_what_does_not_exist_is_a_404_with_its_sentence(olga: Client, made: Catalogue) -> None:
    for path, words in (
        ("/models/nope/", "No model is called"),
        ("/models/nope/policy/", "No model is called"),
        ("/models/vad/99/fit/", "has no version 99"),
        ("/models/vad/99/approve/", "has no version 99"),
        ("/models/vad/99999999999999999999/", "has no version"),
        ("/models/vad/channels/nope/move/", "has no channel"),
        ("/models/vad/links/999/look/", "has no registry link 999"),
        ("/models/asr/links/1/look/", "has no registry link"),
        ("/models/vad/imports/999/again/", "has no import 999"),
    ):
        response = olga.get(path)
        assert response.status_code == 404, path
        assert words in text_of(response), path


ACTS = (
    ("/models/vad/policy/", "change_model"),
    ("/models/vad/new-channel/", "change_channel"),
    ("/models/vad/channels/stable/move/", "change_channel"),
    ("/models/vad/channels/stable/remove/", "change_channel"),
    ("/models/vad/links/{link}/look/", "change_registrylink"),
    ("/models/vad/imports/{failed}/again/", "change_registrylink"),
    ("/models/vad/2/approve/", "add_versionapproval"),
    ("/models/vad/2/withdraw/", "add_versionapproval"),
    ("/models/vad/2/retire/", "change_version"),
    ("/models/vad/4/unretire/", "change_version"),
    ("/models/vad/2/notes/", "change_version"),
    ("/sites/rom/floor/waive/", "change_site"),
    ("/sites/fra/floor/restore/", "change_site"),
)


@pytest.mark.parametrize(("path", "codename"), ACTS)
def test_an_act_needs_its_right_and_no_other(
    viktor: Client, viewer: User, made: Catalogue, path: str, codename: str
) -> None:
    path = path.format(link=made.link.pk, failed=made.failed.pk)
    others = {name for _, name in ACTS} - {codename}
    give(viewer, *others)
    events = Event.objects.count()
    for response in (viktor.get(path), viktor.post(path, WHY)):
        assert response.status_code == 403
        assert codename in text_of(response)
    assert Event.objects.count() == events
    give(viewer, codename)
    assert viktor.get(path).status_code == 200


def test_a_page_offers_a_viewer_no_act_and_says_why(viktor: Client, made: Catalogue) -> None:
    html = text_of(viktor.get("/models/vad/2/"))
    for codename in ("add_versionapproval", "change_version", "add_rollout"):
        if codename != "add_rollout":  # that one is told first what is missing of the version
            assert codename in html
    for verb in ("approve", "retire", "quarantine", "notes"):
        assert f"/models/vad/2/{verb}/" not in html
    page = text_of(viktor.get("/models/vad/"))
    for part in ("policy/", "new-channel/", "move/", "remove/", "look/", "again/"):
        assert f'{part}"' not in page
    assert "/floor/" not in text_of(viktor.get("/sites/rom/"))


# The list and a model


def test_the_list_says_what_is_approved_where_channels_stand_and_how_many_serve(
    olga: Client, made: Catalogue
) -> None:
    lines = {line.model.name: line for line in olga.get("/models/").context["lines"]}
    vad, asr = lines["vad"], lines["asr"]
    assert (vad.newest.number, vad.approved.number) == (6, 6)
    assert [channel.name for channel in vad.channels] == ["candidate", "stable"]
    assert vad.serving == 2
    assert (asr.newest.state, asr.approved, asr.serving) == ("registered", None, 0)


def test_a_model_that_was_made_and_never_pushed_is_shown(olga: Client, now: datetime) -> None:
    Model.objects.create(name="empty", created_at=now)
    assert "empty" in text_of(olga.get("/models/"))
    html = text_of(olga.get("/models/empty/"))
    assert "No version has been pushed yet" in html
    assert "has no approved version yet" in text_of(olga.get("/models/empty/new-channel/"))


def test_a_models_page_tells_each_version_with_its_approvals_and_where_it_runs(
    olga: Client, made: Catalogue
) -> None:
    lines = {line.version.number: line for line in olga.get("/models/vad/").context["lines"]}
    assert (lines[1].approvals, lines[1].serving) == ("2 of 2", 2)
    assert lines[1].signed_by == "release"  # and not by the one that was revoked
    assert lines[1].channels == ("candidate", "stable")
    assert (lines[2].approvals, lines[2].serving) == ("1 of 2", 0)
    filtered = olga.get("/models/vad/?state=validated").context["lines"]
    assert [line.version.number for line in filtered] == [2]
    assert len(olga.get("/models/vad/?state=nonsense").context["lines"]) == 6


def test_a_retired_site_serves_nobody_any_more(
    olga: Client, made: Catalogue, now: datetime
) -> None:
    Site.objects.filter(name="osl").update(retired_at=now)
    (line,) = [row for row in olga.get("/models/").context["lines"] if row.model.name == "vad"]
    assert line.serving == 1


def test_the_policy_shows_what_quotas_are_used_and_is_changed_with_a_reason_where_it_asks_less(
    olga: Client, made: Catalogue
) -> None:
    page = "/models/vad/policy/"
    form = {
        "description": "voice", "approvals_needed": "3", "unsigned": "warned",
        "drift_policy": "hold", "quota_versions": "10", "quota_bytes": "20 GiB", "reason": "",
    }  # fmt: skip
    assert olga.post(page, form).status_code == 302
    model = Model.objects.get(name="vad")
    assert (model.approvals_needed, model.unsigned, model.drift_policy) == (3, "warned", "hold")
    assert (model.quota_versions, model.quota_bytes) == (10, 20 << 30)
    html = text_of(olga.get("/models/vad/"))
    assert "6 of at most 10" in html
    assert "of at most 20.0 GiB" in html

    refused = olga.post(page, form | {"approvals_needed": "2"})
    assert refused.status_code == 422
    assert refused.context["form"].errors["reason"]
    assert olga.post(page, form | {"approvals_needed": "2"} | WHY).status_code == 302
    model.refresh_from_db()
    assert model.approvals_needed == 2
    event = Event.objects.filter(action="model.settings_changed").order_by("pk").last()
    assert event is not None
    assert (event.actor, event.reason) == ("user:olga", "because")


def test_opening_and_keeping_the_policy_as_it_is_changes_nothing(
    olga: Client, made: Catalogue
) -> None:
    Model.objects.filter(name="vad").update(quota_bytes=12345)
    shown = olga.get("/models/vad/policy/").context["form"]
    before = Model.objects.get(name="vad")
    form = {name: shown[name].value() or "" for name in shown.fields}
    form["approvals_needed"] = str(before.approvals_needed)
    assert olga.post("/models/vad/policy/", form).status_code == 302
    assert Model.objects.get(name="vad").revision == before.revision


def test_a_channel_is_made_moved_and_removed(olga: Client, made: Catalogue) -> None:
    form = {"name": "beta", "version": "1", "strategy": "", "reason": "to try"}
    assert olga.post("/models/vad/new-channel/", form).status_code == 302
    row = Channel.objects.get(name="beta")
    assert row.version is not None
    assert (row.version.number, row.person, row.moved_by) == (1, "olga", "user:olga")
    again = form | {"version": "6", "strategy": "canary"}
    assert olga.post("/models/vad/channels/beta/move/", again).status_code == 302
    row.refresh_from_db()
    assert row.version is not None
    assert (row.version.number, row.strategy, row.handled_at) == (6, "canary", None)
    assert "The engine has not acted on the move yet" in text_of(olga.get("/models/vad/"))
    gone = "/models/vad/channels/beta/remove/"
    assert olga.post(gone, {"reason": ""}).status_code == 422
    assert olga.post(gone, WHY).status_code == 302
    assert not Channel.objects.filter(name="beta").exists()


@pytest.mark.parametrize(
    "change", [{"version": "2"}, {"version": "99"}, {"version": ""}, {"version": "x"},
               {"strategy": "nope"}, {"reason": " "}, {"name": "Not Good"}, {"name": "a\0b"}],
)  # fmt: skip
def test_a_move_that_cannot_be_is_told_at_its_place(
    olga: Client, made: Catalogue, change: dict[str, str]
) -> None:
    form = {"name": "beta", "version": "1", "strategy": "", "reason": "to try"} | change
    response = olga.post("/models/vad/new-channel/", form)
    assert response.status_code == 422
    assert response.context["form"].errors
    assert not Channel.objects.filter(name="beta").exists()


def test_a_move_that_starts_a_rollout_needs_the_right_to_start_one(
    viktor: Client, viewer: User, made: Catalogue
) -> None:
    give(viewer, "change_channel")
    form = {"version": "6", "strategy": "canary"} | WHY
    response = viktor.post("/models/vad/channels/stable/move/", form)
    assert response.status_code == 403
    assert Channel.objects.get(name="stable").version_id == made.served.pk
    give(viewer, "add_rollout")
    assert viktor.post("/models/vad/channels/stable/move/", form).status_code == 302


def test_a_registry_is_told_with_its_failures_and_looked_at_again(
    olga: Client, made: Catalogue, settings: Any
) -> None:
    html = text_of(olga.get("/models/vad/"))
    for words in (
        "Follows acme-vad of mlflow", "it does not answer", "Alias prod moves channel stable",
        "its bytes are gone", "after 5 attempts",
    ):  # fmt: skip
        assert words in html
    made.link.wanted_at = None
    made.link.save()
    assert olga.post(f"/models/vad/links/{made.link.pk}/look/").status_code == 302
    made.link.refresh_from_db()
    assert made.link.wanted_at is not None
    event = Event.objects.get(action="registry_link.look_asked")
    assert (event.actor, event.object_id) == ("user:olga", "vad")
    assert event.data["remote_name"] == "acme-vad"

    again = f"/models/vad/imports/{made.failed.pk}/again/"
    settings.WAYPOST_MLFLOW_URL = ""
    response = olga.post(again)
    assert response.status_code == 409
    assert "No MLflow server is named here" in text_of(response)
    settings.WAYPOST_MLFLOW_URL = "https://mlflow.example"
    assert olga.post(again).status_code == 302
    made.failed.refresh_from_db()
    assert (made.failed.state, made.failed.asked_by) == (ImportState.PENDING, "user:olga")
    assert "not failed" in text_of(olga.get(again))


# A version


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/models/vad/1/", ["Approved by bo and cem", "channels candidate, stable"]),
        ("/models/vad/2/", ["needs 2 approvals by others than ana; has 1 (bo)",
                            "One more person with the right to approve, other than bo and ana"]),
        ("/models/vad/3/", ["Quarantined by", "releases it once the cause is gone"]),
        ("/models/vad/4/", ["Retired by", "takes it back into use"]),
        ("/models/vad/5/", ["3 of 3 files are still to come", "goes on where it stopped"]),
        ("/models/asr/1/", ["its model refuses that", "Whoever holds a release key ends this"]),
    ],
)  # fmt: skip
def test_a_version_says_where_it_stands_and_who_can_end_that(
    olga: Client, made: Catalogue, path: str, words: list[str]
) -> None:
    html = text_of(olga.get(path))
    for each in words:
        assert each in html


def test_a_push_that_is_whole_and_not_finalised_says_so(olga: Client, now: datetime) -> None:
    files = version_files("whole")
    version = make_version("vad", registered=False, files=files, now=now)
    for data in files.values():
        digest = hashlib.sha256(data).hexdigest()
        store_blob(version=version, sha256=digest, stream=io.BytesIO(data), now=now)
    assert "the push is still to be finalised" in text_of(olga.get("/models/vad/1/"))


def test_a_version_shows_every_number_that_its_bytes_have_in_a_registry(
    olga: Client, made: Catalogue, now: datetime
) -> None:
    ImportedVersion.objects.create(
        link=made.link, remote_version="9", state=ImportState.IMPORTED, version=made.waiting,
        source_uri="models:/m-9", asked_by="user:olga", asked_at=now, finished_at=now,
    )  # fmt: skip
    html = text_of(olga.get("/models/vad/2/"))
    for words in (
        "acme-vad version 4 of mlflow",
        "models:/m-1",
        "acme-vad version 9",
        "models:/m-9",
    ):
        assert words in html


def test_a_yes_is_given_and_taken_back(olga: Client, made: Catalogue) -> None:
    asked = text_of(olga.get("/models/vad/2/approve/"))
    assert made.waiting.manifest_digest in asked
    assert "It is the last yes that is missing" in asked
    assert approve(olga, made.waiting).status_code == 302
    made.waiting.refresh_from_db()
    assert made.waiting.state == VersionState.APPROVED
    row = made.waiting.approvals.get(person="olga")
    assert row.actor == "user:olga"
    assert "You said yes at" in text_of(olga.get("/models/vad/2/"))
    back = "/models/vad/2/withdraw/"
    assert olga.post(back, {"reason": ""}).status_code == 422
    assert olga.post(back, WHY).status_code == 302
    made.waiting.refresh_from_db()
    assert made.waiting.state == VersionState.VALIDATED
    assert "You have not approved it" in text_of(olga.get(back))


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "nonsense", ""])
def test_a_yes_to_other_bytes_is_refused_in_a_sentence(
    olga: Client, made: Catalogue, digest: str
) -> None:
    path = "/models/vad/2/approve/"
    response = olga.post(path, {"manifest_digest": digest, "reason": "fine"})
    assert response.status_code == 409
    assert "names other bytes" in text_of(response)
    assert not made.waiting.approvals.filter(person="olga").exists()


def test_the_authors_own_yes_is_refused_in_a_sentence(
    olga: Client, made: Catalogue, now: datetime
) -> None:
    own = make_version("vad", state=VersionState.VALIDATED, author="olga", now=now)
    said = "You pushed it, and it needs 2 approvals by others"
    assert said in text_of(olga.get(f"/models/vad/{own.number}/"))
    assert said in text_of(olga.get(f"/models/vad/{own.number}/approve/"))
    assert approve(olga, own).status_code == 403
    assert not own.approvals.exists()


def test_approving_needs_no_more_than_its_permission(
    viktor: Client, viewer: User, made: Catalogue
) -> None:
    assert approve(viktor, made.waiting).status_code == 403
    give(viewer, "add_versionapproval")
    assert approve(viktor, made.waiting).status_code == 302
    made.waiting.refresh_from_db()
    assert made.waiting.state == VersionState.APPROVED


def test_a_version_is_retired_and_taken_back_but_not_from_under_a_channel(
    olga: Client, made: Catalogue
) -> None:
    assert "stable points at it; move that first" in text_of(olga.get("/models/vad/1/retire/"))
    assert olga.post("/models/vad/1/retire/", WHY).status_code == 409
    assert olga.post("/models/vad/2/retire/", WHY).status_code == 302
    made.waiting.refresh_from_db()
    assert made.waiting.state == VersionState.RETIRED
    assert "/models/vad/2/unretire/" in text_of(olga.get("/models/vad/2/"))
    assert olga.post("/models/vad/2/unretire/", WHY).status_code == 302
    made.waiting.refresh_from_db()
    assert made.waiting.state == VersionState.VALIDATED
    assert olga.post("/models/vad/2/unretire/", WHY).status_code == 409


def test_labels_and_notes_are_kept_with_lines_and_equal_signs(
    olga: Client, made: Catalogue
) -> None:
    form = {"labels": "a=b=c\r\n with space = x y \r\n", "notes": "one\r\ntwo"}
    assert olga.post("/models/vad/2/notes/", form).status_code == 302
    made.waiting.refresh_from_db()
    assert made.waiting.labels == {"a": "b=c", "with space": "x y"}
    assert made.waiting.notes == "one\ntwo"
    assert olga.post("/models/vad/2/notes/", {"labels": "", "notes": ""}).status_code == 302
    made.waiting.refresh_from_db()
    assert (made.waiting.labels, made.waiting.notes) == ({}, "")


@pytest.mark.parametrize("labels", ["nothing", "=x", "a=1\na=2", "k=" + "v" * 300])
def test_labels_that_cannot_be_kept_are_told_at_their_field(
    olga: Client, made: Catalogue, labels: str
) -> None:
    response = olga.post("/models/vad/2/notes/", {"labels": labels, "notes": ""})
    assert response.status_code == 422
    assert response.context["form"].errors["labels"]


def test_labels_with_line_breaks_survive_an_edit_of_the_notes(
    olga: Client, made: Catalogue
) -> None:
    labels = {"poem": "one\ntwo"}
    Version.objects.filter(pk=made.waiting.pk).update(labels=labels)
    page = olga.get("/models/vad/2/notes/")
    assert "change those by the API" in text_of(page)
    assert "labels" not in page.context["form"].fields
    assert olga.post("/models/vad/2/notes/", {"notes": "new"}).status_code == 302
    made.waiting.refresh_from_db()
    assert (made.waiting.labels, made.waiting.notes) == (labels, "new")


def test_only_an_https_address_that_hides_nothing_becomes_a_link(
    olga: Client, made: Catalogue
) -> None:
    html = text_of(olga.get("/models/vad/1/"))
    assert 'href="https://git.example/acme/vad" rel="noopener noreferrer nofollow"' in html
    assert SECRETIVE in html
    for text in ("http://ci.example/7", "javascript:alert(1)", SECRETIVE):
        assert f'href="{text}' not in html


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("https://git.example/a?b=c#d", True),
        ("HTTPS://git.example/", True),
        ("http://git.example/", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//git.example/", False),
        ("https://", False),
        ("https:/git.example/", False),
        ("https://user@git.example/", False),
        ("https://git.example/a b", False),
        ("https://git.example\\@evil.example/", False),
        ("https://git.example/\u202egpj", False),
        ("https://[::1", False),
        ("https://git.example:99999999/", False),
        ("git@git.example:acme/vad", False),
        ("", False),
    ],
)
def test_what_is_a_safe_address(text: str, linked: bool) -> None:
    assert safe_href(text) == (text if linked else "")


def test_approvals_name_the_bytes_and_say_when_they_do_not_count(
    olga: Client, made: Catalogue
) -> None:
    made.served.approvals.filter(person="bo").update(manifest_digest="sha256:" + "0" * 64)
    made.served.approvals.filter(person="cem").update(person="olga")  # its author
    html = text_of(olga.get("/models/vad/1/"))
    assert "does not count: it names other bytes" in html
    assert "does not count: the author" in html
    assert "Approvals (0 of 2)" in html


def test_builds_are_a_table_with_what_they_require(olga: Client, made: Catalogue) -> None:
    html = text_of(olga.get(f"/models/vad/{made.builds.number}/"))
    for words in (
        "trt-8.9", "2.0 GiB of accelerator memory", "compute capability exactly 8.9",
        "backends onnxruntime",
    ):  # fmt: skip
        assert words in html


def test_golden_requests_are_summed_up_from_the_file_that_was_pushed(
    olga: Client, made: Catalogue
) -> None:
    html = text_of(olga.get("/models/vad/1/golden/"))
    assert "1 request," in html
    assert "x FP32 [1]" in html
    assert "y FP32 [1], equal" in html


def test_golden_requests_whose_bytes_are_not_here_are_said_to_be_missing(
    olga: Client, made: Catalogue
) -> None:
    html = text_of(olga.get("/models/vad/5/golden/"))
    assert "Its bytes are not here yet" in html


# Which sites can take it


def test_fit_counts_the_sites_and_says_with_which_numbers(olga: Client, made: Catalogue) -> None:
    page = olga.get(f"/models/vad/{made.builds.number}/fit/")
    summary = page.context["summary"]
    assert summary.words == "3 sites: 1 fits as far as is known, 2 cannot take it"
    assert summary.builds == (("trt-8.9", 1),)
    rows = {row.fit.traits.name: row for row in page.context["rows"]}
    assert rows["fra"].fit.choice.variant == "trt-8.9"
    html = text_of(page)
    assert "Not trt-8.9: needs compute capability 8.9, the site has 8.6" in html
    assert "2 sites: onnx needs 1000.0 GiB of memory (by its manifest), the site has 64.0" in html


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("selector=name=fra", ["fra"]),
        ("selector=name!=fra", ["osl", "rom"]),
        ("selector=hardware=GPU 8.6", []),
        ("verdict=no", ["osl", "rom"]),
        ("verdict=ok", []),
        ("verdict=nonsense", ["fra", "osl", "rom"]),
        ("selector=tier=edge&verdict=unknown", ["fra"]),
        ("page=999", ["fra", "osl", "rom"]),
        ("page=x", ["fra", "osl", "rom"]),
    ],
)
def test_fit_is_narrowed(olga: Client, made: Catalogue, query: str, names: list[str]) -> None:
    response = olga.get(f"/models/vad/{made.builds.number}/fit/?{query}")
    if "GPU" in query:  # a blank cannot stand in a value
        assert response.status_code == 422
        return
    assert [row.fit.traits.name for row in response.context["rows"]] == names


@pytest.mark.parametrize("selector", ["a==b==c", "%00", "(", ",", "a" * 1100, "a in ()b"])
def test_a_selector_that_cannot_be_read_is_said_so(
    olga: Client, made: Catalogue, selector: str
) -> None:
    response = olga.get(f"/models/vad/1/fit/?selector={selector}")
    assert response.status_code == 422
    assert "cannot be read at character" in text_of(response)


def test_reasons_are_grouped_by_question_whatever_the_figures(olga: Client, now: datetime) -> None:
    version = make_builds({"big": {"requires": {"memory_bytes": 100 << 30}},
                           "exact": {"requires": {"compute_capability_exact": "9.0"}}},
                          now=now)  # fmt: skip
    for n in range(5):
        site_with(f"site-{n}", "8.6", now=now)
    Server.objects.filter(site__name="site-0").update(memory_bytes=1 << 30)
    summary = olga.get(f"/models/vad/{version.number}/fit/").context["summary"]
    counts = {group.reason.split(" ")[0]: group.count for group in summary.reasons}
    assert counts == {"big": 5, "exact": 5}
    (big,) = [group for group in summary.reasons if group.reason.startswith("big ")]
    assert "64.0 GiB (4 of them; the others with other figures)" in big.reason
    own = {name: reason for name, reason in big.entries if reason != big.reason}
    assert list(own) == ["site-0"]
    assert "the site has 1.0 GiB" in own["site-0"]


def test_the_plan_of_several_builds_says_how_many_sites_get_which(
    olga: Client, now: datetime
) -> None:
    version = make_builds(now=now)
    for n in range(2):
        site_with(f"new-{n}", "8.9", now=now)
    site_with("old", "8.6", now=now)
    form = {"version": version.pk, "strategy": "at-once", "step": "plan"}
    assert "builds: 2 trt-8.9, 1 onnx" in text_of(olga.post("/rollouts/start/", form))
    single = make_version("asr", now=now)
    plan = text_of(olga.post("/rollouts/start/", form | {"version": single.pk}))
    assert "builds:" not in plan


# The site


def test_a_site_says_what_it_allows_and_trusts(olga: Client, made: Catalogue) -> None:
    html = text_of(olga.get("/sites/rom/"))
    assert "not allowed by the site" in html
    assert "a" * 64 in html
    assert "not known here" in html
    key = made.served.signatures.get(key__name="release").key
    Agent.objects.filter(site__name="rom").update(
        executable_allowed=None, trust={"unsigned": "warned", "keys": [key.fingerprint]}
    )
    html = text_of(olga.get("/sites/rom/"))
    assert "they do not go there" in html
    assert ">release</a>" in html
    assert "allowed by the site" in text_of(olga.get("/sites/fra/"))


def test_the_floor_is_waived_and_taken_back_with_reasons(
    olga: Client, made: Catalogue, poll: Callable[..., Any]
) -> None:
    before = poll("/sites/rom/")["ETag"]
    assert olga.post("/sites/rom/floor/waive/", {"reason": " "}).status_code == 422
    assert olga.post("/sites/rom/floor/waive/", {"reason": "a lab"}).status_code == 302
    html = text_of(olga.get("/sites/rom/"))
    assert "waived by user:olga: a lab" in html
    assert poll("/sites/rom/", before).status_code == 200  # the open page learns of it
    assert olga.post("/sites/rom/floor/restore/", WHY).status_code == 302
    assert Site.objects.get(name="rom").floor_waiver == ""
    assert olga.post("/sites/rom/floor/restore/", WHY).status_code in (302, 409)
    event = Event.objects.filter(action="site.triton_floor_restored").get()
    assert event.reason == "because"


def test_an_open_page_of_a_site_learns_what_its_agent_allows(
    made: Catalogue, poll: Callable[..., Any]
) -> None:
    before = poll("/sites/rom/")["ETag"]
    assert poll("/sites/rom/", before).status_code == 304
    Agent.objects.filter(site__name="rom").update(executable_allowed=True)
    assert poll("/sites/rom/", before).status_code == 200


# Words


@pytest.mark.parametrize(
    "size", [1, 999, 1 << 10, 3 << 20, 20 << 30, 5 << 40, 12345, (1 << 30) + 1]
)
def test_a_size_is_written_so_that_it_is_read_as_it_was(size: int) -> None:
    assert SizeField().clean(size_words(size)) == size


@pytest.mark.parametrize(
    "text", ["0", "-1", "1 PiB", "GiB", "1e9", "9" * 20, "99999999 TiB", "\u0661"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="This is no size"):
        SizeField().clean(text)


def test_pairs_are_written_so_that_they_are_read_as_they_were() -> None:
    pairs = {"a": "b=c", "d": "", "e f": "g h"}
    assert PairsField.read(PairsField.write(pairs)) == pairs
    assert PairsField.keeps(pairs)
    for lossy in ({"a": "x\ny"}, {"a=b": "c"}, {"a": " x"}, {"": "x"}, {"a": "x\r\ny"}):
        assert not PairsField.keeps(lossy)


# Costs


def _many_versions(model: Model, count: int, now: datetime) -> None:
    """As rows alone: their bytes are no matter here."""
    first = model.versions.order_by("number")[0]
    Version.objects.bulk_create(
        Version(
            model=model, number=100 + n, state=VersionState.APPROVED, manifest=first.manifest,
            manifest_digest=f"sha256:{n:064}", size_bytes=1, content_class="data",
            created_by="user:ana", author="ana", created_at=now,
        )
        for n in range(count)
    )  # fmt: skip


def test_a_model_with_a_thousand_versions_costs_what_one_with_six_does(
    olga: Client, made: Catalogue, now: datetime, django_assert_max_num_queries: Any
) -> None:
    paths = ("/models/", "/models/vad/", "/models/vad/new-channel/")
    few = {}
    for path in paths:
        with django_assert_max_num_queries(40) as asked:
            olga.get(path)
        few[path] = len(asked)
    _many_versions(Model.objects.get(name="vad"), 1000, now)
    for path in paths:
        with django_assert_max_num_queries(40) as asked:
            response = olga.get(path)
        assert len(asked) <= few[path], path
        assert len(response.content) < 150_000, path
    assert len(olga.get("/models/vad/").context["lines"]) == 50


def test_fit_over_a_thousand_sites_costs_what_it_does_over_ten(
    olga: Client, now: datetime, django_assert_max_num_queries: Any
) -> None:
    version = make_builds(now=now)
    for n in range(10):
        site_with(f"site-{n:03}", "8.9" if n % 2 else "8.6", now=now)
    path = f"/models/vad/{version.number}/"
    few = {}
    for page in (path, f"{path}fit/"):
        with django_assert_max_num_queries(40) as asked:
            olga.get(page)
        few[page] = len(asked)
    sites = Site.objects.bulk_create(
        Site(name=f"copy-{n:04}", tier="edge", region="eu-west", created_at=now)
        for n in range(1000)
    )
    agents = Agent.objects.bulk_create(
        Agent(site=site, public_key=b"k" * 32, enrolled_at=now) for site in sites
    )
    Lease.objects.bulk_create(Lease(agent=agent, last_seen_at=now) for agent in agents)
    Server.objects.bulk_create(
        Server(site=site, hostname=site.name, memory_bytes=1 << 30, reported_at=now)
        for site in sites
    )
    for page in (path, f"{path}fit/"):
        with django_assert_max_num_queries(40) as asked:
            response = olga.get(page)
        assert len(asked) == few[page], page
        assert len(response.content) < 150_000, page
    page = olga.get(f"{path}fit/?page=3")
    assert (page.context["summary"].total, len(page.context["rows"])) == (1010, 50)


def test_a_page_of_versions_is_one_page_whatever_else_serves(
    olga: Client, made: Catalogue, now: datetime
) -> None:
    """A site that says it serves a number that nobody pushed is nobody's."""
    agent = make_joined_site("lost", now=now)
    SiteModel.objects.create(
        site=agent.site,
        model=made.served.model,
        generation=1,
        reported_serving=77,
        reported_at=now,
    )
    lines = olga.get("/models/vad/").context["lines"]
    assert sum(line.serving for line in lines) == 2


def test_somebody_else_may_be_first(olga: Client, made: Catalogue, now: datetime) -> None:
    """The page was open while another approved: the yes is kept all the same, once."""
    olga.get("/models/vad/2/approve/")
    approve_version(
        version=made.waiting, manifest_digest=made.waiting.manifest_digest, person="cem",
        actor="user:cem", now=now,
    )  # fmt: skip
    for _ in range(2):
        assert approve(olga, made.waiting).status_code in (302, 409)
    assert made.waiting.approvals.filter(person="olga").count() == 1
