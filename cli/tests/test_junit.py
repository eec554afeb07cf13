"""A rollout as JUnit XML: one case for each site, and text that no site can break."""

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_documents import deployment, rollout, stage
from waypost_cli.junit import junit_xml
from waypost_cli.rollout import read_rollout


def suite_of(document: dict[str, object], *, timed_out: bool = False) -> ElementTree.Element:
    root = ElementTree.fromstring(junit_xml(read_rollout(document), timed_out=timed_out))
    suite = root.find("testsuite")
    assert root.tag == "testsuites"
    assert suite is not None
    return suite


def test_each_site_is_one_case_with_its_verdict_and_time() -> None:
    times = {"started_at": "2026-11-23T13:00:00Z", "finished_at": "2026-11-23T13:00:42.5Z"}
    failed = deployment(
        "edge-2", "rolled_back", reason_code="golden-mismatch", reason='answer <1> & "2" differ'
    )
    back = deployment("edge-2", "succeeded", kind="rollback")
    suite = suite_of(
        rollout(
            "rolled_back",
            stage("canary", "failed", deployment("edge-1", "succeeded", **times), failed, back),
            stage("rest", "cancelled", sites=["core-1"]),
            excluded=[{"site": "far", "reason": "offline"}],
        )
    )

    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert list(cases) == ["edge-1", "edge-2", "core-1", "far"]
    assert len(cases["edge-1"]) == 0
    assert cases["edge-1"].get("time") == "42.500"
    assert cases["edge-1"].get("classname") == "canary"
    failure = cases["edge-2"].find("failure")
    assert failure is not None
    assert failure.get("type") == "golden-mismatch"
    assert failure.get("message") == 'rolled_back: answer <1> & "2" differ'
    assert cases["core-1"].find("skipped") is not None
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "0", "skipped": "2"}


def test_a_site_that_was_taken_back_fails_although_it_had_succeeded() -> None:
    forward = deployment("edge-1", "succeeded")
    back = deployment("edge-1", "succeeded", kind="rollback", reason="edge-2 failed")

    suite = suite_of(rollout("rolled_back", stage("canary", "failed", forward, back)))

    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "rollback succeeded: edge-2 failed"


@pytest.mark.parametrize(("timed_out", "tag"), [(True, "error"), (False, "skipped")])
def test_a_site_that_is_not_done_is_an_error_only_when_time_ran_out(
    timed_out: bool, tag: str
) -> None:
    document = rollout("running", stage("canary", "running", deployment("edge-1", "staged")))

    case = suite_of(document, timed_out=timed_out).find("testcase")

    assert case is not None
    assert [child.tag for child in case] == [tag]


@pytest.mark.parametrize("state", ["timed_out", "rejected"])
def test_a_site_that_never_got_there_fails(state: str) -> None:
    suite = suite_of(rollout("running", stage("all", "running", deployment("edge-1", state))))
    assert suite.find("testcase/failure") is not None


@pytest.mark.parametrize("state", ["deferred", "removed", "cancelled"])
@pytest.mark.parametrize("timed_out", [True, False])
def test_a_site_that_left_the_rollout_is_skipped(state: str, timed_out: bool) -> None:
    document = rollout("running", stage("all", "running", deployment("edge-1", state)))
    suite = suite_of(document, timed_out=timed_out)
    assert [child.tag for child in suite.findall("testcase/*")] == ["skipped"]


@given(text=st.text())
def test_any_text_gives_a_document_that_parses(text: str) -> None:
    site = deployment("edge-1", "failed", reason=text, reason_code=text)

    suite = suite_of(rollout("rolled_back", stage(text, "failed", site), reason=text))

    assert suite.get("failures") == "1"
