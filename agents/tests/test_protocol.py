"""Every field of an answer is checked; the documented examples pass, broken ones change nothing."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from versions import make_version, wish
from waypost_agent import protocol as p
from waypost_agent.errors import WISH_SUPERSEDED, AnswerError
from waypost_agent.manifest import digest_of, parse_manifest
from waypost_agent.probation import Probation
from waypost_agent.requires import Requires

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "protocol"


def example(name: str) -> Any:
    return p.parse_json((EXAMPLES / f"{name}.json").read_bytes())


def test_the_documented_answers_are_read() -> None:
    enrolment = p.parse_enrolment(example("enrol-answer"))
    assert (enrolment.site, enrolment.poll_seconds) == ("edge-1", 15.0)
    assert p.parse_challenge(example("challenge-answer")).nonce
    session = p.parse_session(example("session-answer"))
    assert (session.expires_seconds, session.session_counter) == (3600.0, 7)
    answer = p.parse_report_answer(example("report-answer"))
    assert (answer.epoch, answer.generation, answer.superseded) == (1, 12, ())


def test_the_documented_desired_state_is_read() -> None:
    desired = p.parse_desired(example("desired-answer"))
    assert (desired.pair, desired.etag, desired.site) == ((1, 12), '"1.12"', "edge-1")
    vad, retired = desired.models
    assert (vad.model, vad.version, vad.previous, vad.deployment) == ("vad", "2", "1", 31)
    assert vad.manifest is not None
    assert [file.path for file in vad.manifest.payload] == ["model.py"]
    assert (retired.version, retired.manifest, retired.deployment) == (None, None, None)


def test_the_documented_wish_that_needs_a_lease_is_read() -> None:
    vad, retired = p.parse_desired(example("desired-lease-answer")).models
    assert (vad.lease_required, retired.lease_required) == (True, False)


def test_the_documented_wish_with_a_switch_a_probation_and_requirements_is_read() -> None:
    (vad,) = p.parse_desired(example("desired-replace-answer")).models
    assert vad.switch == "replace"
    assert vad.probation == Probation(
        seconds=60, max_error_rate=0.05, min_requests=20, max_mean_latency_ms=250
    )
    assert vad.manifest is not None
    assert vad.manifest.requires == Requires(
        accelerator_memory_bytes=3 << 30,
        memory_bytes=768 << 20,
        compute_capability="8.0",
        triton="2.51.0",
        backends=("python",),
    )


def test_a_wish_that_says_nothing_of_leases_needs_none() -> None:
    assert [wish.lease_required for wish in p.parse_desired(example("desired-answer")).models] == [
        False,
        False,
    ]


def test_the_documented_question_for_a_lease_is_the_one_asked() -> None:
    documented = example("lease-request")
    vad, _ = p.parse_desired(example("desired-lease-answer")).models
    assert vad.manifest is not None
    question = p.LeaseQuestion(
        model=vad.model,
        generation=vad.generation,
        epoch=1,
        deployment=vad.deployment,
        manifest_digest=vad.manifest.digest,
        asked=p.Moment(**documented["asked"]),
    )
    assert question.document() == documented


def test_the_documented_answers_about_a_lease_are_read() -> None:
    granted = p.parse_lease_answer(example("lease-granted-answer"))
    assert granted == p.LeaseGrant(lease=17, begin_within_seconds=60.0)
    refused = p.parse_lease_answer(example("lease-refused-answer"))
    assert isinstance(refused, p.LeaseRefusal)
    assert (refused.reason_code, refused.retry_seconds) == ("max-unavailable", 15.0)
    assert refused.reason == example("lease-refused-answer")["reason"]
    assert example("lease-superseded-problem")["code"] == WISH_SUPERSEDED


BAD_LEASE_ANSWERS: list[tuple[str, Any]] = [
    ("not an object", []),
    ("no verdict", {"lease": 17, "begin_within_seconds": 60}),
    ("granted as text", {"granted": "yes", "lease": 17, "begin_within_seconds": 60}),
    ("granted as one", {"granted": 1, "lease": 17, "begin_within_seconds": 60}),
    ("no number", {"granted": True, "begin_within_seconds": 60}),
    ("number as text", {"granted": True, "lease": "17", "begin_within_seconds": 60}),
    ("no time", {"granted": True, "lease": 17}),
    ("no time left", {"granted": True, "lease": 17, "begin_within_seconds": 0}),
    ("for ever", {"granted": True, "lease": 17, "begin_within_seconds": 1e9}),
    ("refused without a code", {"granted": False, "reason": "no", "retry_seconds": 1}),
    ("refused without a reason", {"granted": False, "reason_code": "no", "retry_seconds": 1}),
    ("refused without a time", {"granted": False, "reason_code": "no", "reason": "no"}),
    (
        "a code that is a sentence",
        {"granted": False, "reason_code": "Not now.", "reason": "no", "retry_seconds": 1},
    ),
]


@pytest.mark.parametrize(
    "answer", [case[1] for case in BAD_LEASE_ANSWERS], ids=[c[0] for c in BAD_LEASE_ANSWERS]
)
def test_a_broken_answer_about_a_lease_is_refused(answer: Any) -> None:
    with pytest.raises(AnswerError):
        p.parse_lease_answer(answer)


def test_the_documented_digest_is_computed() -> None:
    document = example("manifest")
    assert digest_of(document["manifest"]) == document["manifest_digest"]
    assert parse_manifest(document["manifest"], document["manifest_digest"]).files


@pytest.mark.parametrize("name", ["report-request", "report-lease-waiting-request"])
def test_a_report_has_the_documented_keys(name: str) -> None:
    documented = example(name)["models"][1]
    report = p.ModelReport(**documented)
    assert report.document() == documented


def test_a_reason_is_cut_to_what_the_centre_takes() -> None:
    report = p.ModelReport(**{**example("report-request")["models"][1], "reason": "x" * 900})
    assert len(report.document()["reason"]) == 500


def desired(**changes: Any) -> dict[str, Any]:
    entry = wish(make_version("2"), generation=4, previous="1")
    return {"epoch": 1, "generation": 5, "site": "edge-1", "models": [entry], **changes}


def entry(**changes: Any) -> dict[str, Any]:
    return desired(models=[{**wish(make_version("2"), generation=4), **changes}])


def test_unknown_keys_are_ignored() -> None:
    assert p.parse_desired(desired(news="later versions may say more")).generation == 5


BROKEN: list[tuple[str, Any]] = [
    ("not an object", []),
    ("null", None),
    ("no epoch", {k: v for k, v in desired().items() if k != "epoch"}),
    ("epoch as text", desired(epoch="1")),
    ("epoch as true", desired(epoch=True)),
    ("negative generation", desired(generation=-1)),
    ("generation beyond 64 bits", desired(generation=1 << 63)),
    ("a fraction", desired(generation=1.5)),
    ("no site", desired(site=None)),
    ("a site with a line break", desired(site="edge\n1")),
    ("models not a list", desired(models={})),
    ("too many models", desired(models=[{}] * 1001)),
    ("a model twice", desired(models=[desired()["models"][0]] * 2)),
    (
        "model names that differ by case",
        desired(models=[desired()["models"][0], {**desired()["models"][0], "model": "ECHO"}]),
    ),
    ("no model name", entry(model=None)),
    ("a path as model", entry(model="../other")),
    ("a slash", entry(model="a/b")),
    ("a dot", entry(model=".hidden")),
    ("too long a name", entry(model="m" * 65)),
    ("a candidate's name", entry(model="echo--candidate")),
    ("a name with a zero byte", entry(model="a\x00b")),
    ("a right-to-left mark", entry(model="a\u202eb")),
    ("a version with a leading zero", entry(version="01")),
    ("version zero", entry(version="0")),
    ("a negative version", entry(version="-1")),
    ("a version as a number", entry(version=2)),
    ("a version that is a path", entry(version="../1")),
    ("a version beyond 64 bits", entry(version="9" * 19)),
    ("previous with a blank", entry(previous="1 ")),
    ("deployment as text", entry(deployment="31")),
    ("no digest", entry(manifest_digest=None)),
    ("an upper-case digest", entry(manifest_digest="sha256:" + "A" * 64)),
    ("another digest", entry(manifest_digest="sha256:" + "0" * 64)),
    ("no manifest", entry(manifest=None)),
    ("a lease required as text", entry(lease_required="true")),
    ("a lease required as one", entry(lease_required=1)),
    ("a lease required as null", entry(lease_required=None)),
]


@pytest.mark.parametrize("answer", [case[1] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_desired_state_is_refused_whole(answer: Any) -> None:
    with pytest.raises(AnswerError):
        p.parse_desired(answer)


def test_a_wish_may_be_newer_than_the_answer_it_travels_in() -> None:
    # The centre reads its generation first: a wish made in between is only fetched once more.
    assert p.parse_desired(entry(generation=6)).models[0].generation == 6


def _file(path: Any = "model.py", size: Any = 1, sha256: Any = "0" * 64) -> dict[str, Any]:
    return {"path": path, "size": size, "sha256": sha256}


HOSTILE_PATHS = [
    "../model.py", "a/../b", "/etc/passwd", "a//b", "a/", "", ".", "..", ".git/config", "a\\b",
    "a\x00b", "a b", "%2e%2e/x", "\u202egnp.py", "caf\u00e9", "C:", "a/b/c/d/e", "x" * 129,
    "__pycache__/model.pyc", "sub/__pycache__/m.pyc", "-rf", "a\n", None, 7,
]  # fmt: skip


def manifest_with(files: Any, schema: Any = "waypost.manifest/1") -> dict[str, Any]:
    manifest = {"schema": schema, "files": files}
    return entry(manifest=manifest, manifest_digest=digest_of(manifest))


RECORD = [_file("config.pbtxt"), _file("golden.json")]


@pytest.mark.parametrize("path", HOSTILE_PATHS, ids=repr)
def test_a_hostile_path_is_refused(path: Any) -> None:
    with pytest.raises(AnswerError) as caught:
        p.parse_desired(manifest_with([*RECORD, _file(), _file(path)]))
    assert caught.value.code == "manifest-invalid"
    assert caught.value.wish == ("echo", 1, 4, 1, "2")


BAD_SETS: list[tuple[str, Any]] = [
    ("twice", [*RECORD, _file(), _file()]),
    ("differing by case", [*RECORD, _file("model.py"), _file("Model.py")]),
    ("config by another case", [*RECORD, _file(), _file("CONFIG.pbtxt")]),
    ("a file that is a folder", [*RECORD, _file("a"), _file("a/b")]),
    ("a folder by another case", [*RECORD, _file("A/b"), _file("a")]),
    ("no config", [_file("golden.json"), _file()]),
    ("no golden", [_file("config.pbtxt"), _file()]),
    ("no model", RECORD),
    ("empty", []),
    ("not a list", {}),
    ("too many", [*RECORD, *[_file(f"f{n}") for n in range(2001)]]),
    ("negative size", [*RECORD, _file(size=-1)]),
    ("size as text", [*RECORD, _file(size="1")]),
    ("size beyond reason", [*RECORD, _file(size=1 << 50)]),
    ("huge golden file", [_file("config.pbtxt"), _file("golden.json", 1 << 30), _file()]),
    ("short hash", [*RECORD, _file(sha256="0" * 63)]),
    ("upper-case hash", [*RECORD, _file(sha256="A" * 64)]),
    ("not an object", [*RECORD, "model.py"]),
]


@pytest.mark.parametrize("files", [case[1] for case in BAD_SETS], ids=[c[0] for c in BAD_SETS])
def test_a_bad_set_of_files_is_refused(files: Any) -> None:
    with pytest.raises(AnswerError):
        p.parse_desired(manifest_with(files))


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"\xff\xfe", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"[" * 200_000],
    ids=["empty", "html", "not utf-8", "key twice", "NaN", "deep"],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(AnswerError):
        p.parse_json(body)


PARSERS: dict[str, Callable[[object], object]] = {
    "enrol-answer": p.parse_enrolment,
    "challenge-answer": p.parse_challenge,
    "session-answer": p.parse_session,
    "report-answer": p.parse_report_answer,
    "desired-answer": p.parse_desired,
    "desired-lease-answer": p.parse_desired,
    "desired-replace-answer": p.parse_desired,
    "lease-granted-answer": p.parse_lease_answer,
    "lease-refused-answer": p.parse_lease_answer,
}

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(PARSERS)), st.data())
def test_a_field_of_any_other_kind_is_refused_or_read_never_a_crash(
    name: str, data: st.DataObject
) -> None:
    answer = copy.deepcopy(example(name))
    place: Any = answer
    while True:
        if isinstance(place, dict) and place:
            key: Any = data.draw(st.sampled_from(sorted(place)))
        elif isinstance(place, list) and place:
            key = data.draw(st.integers(0, len(place) - 1))
        else:
            break
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = data.draw(_json)
            break
        place = place[key]
    # Reading it anyway may be right too; any other exception is a crash, and fails this.
    with contextlib.suppress(AnswerError):
        PARSERS[name](json.loads(json.dumps(answer)))


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "0", "nan", "inf", "1e9"])
def test_a_poll_interval_that_makes_no_sense_is_refused(header: str | None) -> None:
    with pytest.raises(AnswerError):
        p.parse_poll_seconds(header)
