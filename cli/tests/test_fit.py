"""`waypost fit` and `waypost sites waive-floor`."""

import json
from typing import Any

from conftest import Waypost
from fake_api import FakeApi

FIT: dict[str, Any] = {
    "model": "vad",
    "version": "2",
    "sites": 3,
    "summary": {"ok": 1, "unknown": 1, "no": 1, "variants": {"trt-8.9": 1, "onnx": 1}},
    "shown": 2,
    "results": [
        {"site": "new", "verdict": "ok", "variant": "trt-8.9", "why": "it fits"},
        {"site": "tight", "verdict": "ok", "variant": "onnx", "why": "", "only_by_replace": True},
        {"site": "bare", "verdict": "no", "variant": None, "why": "no build fits: none"},
    ],
}
PATH = "models/vad/versions/2/fit"
WAIVER = "sites/edge-1/triton-floor-waiver"


def test_fit_says_how_many_and_which_build(waypost: Waypost, fake: FakeApi) -> None:
    fake.answers["GET", PATH] = FIT
    ran = waypost("fit", "vad", "2", "--selector", "tier=edge", "--verdict", "no")
    assert ran.exit_code == 0
    assert "of 3 sites 1 can take it, 1 may (too little is known) (onnx 1, trt-8.9 1)" in ran.stderr
    assert "by replace" in ran.stdout
    assert "no build fits: none" in ran.stdout
    seen = next(each for each in fake.seen if each.path.endswith(PATH))
    assert seen.query == {"selector": "tier=edge", "verdict": "no", "limit": "100"}


def test_fit_gives_a_program_all_of_it(waypost: Waypost, fake: FakeApi) -> None:
    fake.answers["GET", PATH] = FIT
    assert json.loads(waypost("fit", "vad", "2", "--output", "json").stdout) == FIT


def test_the_floor_is_waived_with_a_reason(waypost: Waypost, fake: FakeApi) -> None:
    fake.answers["POST", WAIVER] = {"site": "edge-1", "reason": "old wheel", "by": "token:ci"}
    ran = waypost("sites", "waive-floor", "edge-1", "--reason", "old wheel")
    assert ran.exit_code == 0
    assert fake.seen[-1].body == {"reason": "old wheel"}


def test_without_a_reason_nothing_is_sent(waypost: Waypost, fake: FakeApi) -> None:
    assert waypost("sites", "waive-floor", "edge-1").exit_code == 1
    assert not fake.seen


def test_a_waiver_is_taken_back(waypost: Waypost, fake: FakeApi) -> None:
    fake.answers["DELETE", WAIVER] = {}
    ran = waypost("sites", "waive-floor", "edge-1", "--take-back", "--reason", "renewed")
    assert ran.exit_code == 0
    assert (fake.seen[-1].method, fake.seen[-1].query) == ("DELETE", {"reason": "renewed"})
