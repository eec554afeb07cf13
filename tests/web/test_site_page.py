"""A site's page: its signals, its agent and what a person does about it, what was measured."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from controlplane.accounts.models import User
from controlplane.domain.errors import Conflict
from controlplane.fleet.identity import enrol_agent
from controlplane.fleet.inventory import (
    AcceleratorFacts,
    MachineFacts,
    TritonServerFacts,
    record_machine,
)
from controlplane.fleet.keys import ask_for_new_key
from controlplane.fleet.measurements import (
    AcceleratorGauges,
    Measurement,
    ModelCounts,
    record_measurement,
)
from controlplane.fleet.models import Agent
from controlplane.fleet.services import create_enrolment_token
from tests.factories import ACTOR, make_joined_site, make_rollout, make_site, settle
from tests.fake_agent import FakeAgent
from tests.web.conftest import text_of

PAGE = "/sites/fra/"


@pytest.fixture
def fra(now: datetime) -> FakeAgent:
    return make_joined_site("fra", now=now)


def machine(agent: FakeAgent, *, now: datetime, **facts: Any) -> None:
    known = MachineFacts(**{"hostname": "box-1", **facts})
    record_machine(caller=agent.caller(now=now), machine=known, now=now)


def test_each_signal_stands_on_its_own(olga: Client, fra: FakeAgent, now: datetime) -> None:
    settle(make_rollout(agents=[fra], now=now), [fra], now=now)
    machine(fra, now=now)
    fra.triton_live = False
    fra.send(now=now)
    rows = {
        part.split('"')[0]: part.split("</tr>")[0]
        for part in text_of(olga.get(PAGE)).split('id="signal-')[1:]
    }
    assert list(rows) == ["process", "versions", "golden", "freshness"]
    assert "Triton does not answer" in rows["process"]
    assert "1 version ready" in rows["versions"]
    assert "wp-bad" in rows["process"]
    assert all("wp-good" in rows[name] for name in ("versions", "golden", "freshness"))


def test_a_silent_site_is_stale_and_none_of_its_signals_bad(olga: Client, now: datetime) -> None:
    agent = make_joined_site("fra", now=now - timedelta(days=1))
    machine(agent, now=now - timedelta(days=1))
    agent.triton_live = False
    agent.send(now=now - timedelta(days=1))
    html = text_of(olga.get(PAGE))
    assert "when last heard: Triton does not answer" in html
    assert "wp-bad" not in html.split('id="signals-title"')[1].split("</section>")[0]


def test_a_locked_agent_is_an_alert_with_its_cure(
    olga: Client, viktor: Client, fra: FakeAgent, now: datetime
) -> None:
    fra.open_session(now=now)
    with pytest.raises(Conflict):
        FakeAgent(site=fra.site, agent_id=fra.agent_id, key=fra.key).open_session(now=now)
    html = text_of(olga.get(PAGE))
    assert "The agent is locked." in html
    assert "two held its key" in html
    assert 'id="agent-unlock"' in html
    assert 'id="agent-unlock"' not in text_of(viktor.get(PAGE))
    assert viktor.post(f"{PAGE}agent/unlock/", {"reason": "x"}).status_code == 403
    assert olga.post(f"{PAGE}agent/unlock/", {"reason": ""}).status_code == 422
    assert olga.post(f"{PAGE}agent/unlock/", {"reason": "the copy is gone"}).status_code == 302
    assert "The agent is locked." not in text_of(olga.get(PAGE))


def test_a_new_key_is_asked_for_and_missed_when_it_does_not_come(
    olga: Client, viktor: Client, fra: FakeAgent, now: datetime
) -> None:
    assert "that of joining" in text_of(olga.get(PAGE))
    assert viktor.post(f"{PAGE}agent/new-key/").status_code == 403
    assert olga.post(f"{PAGE}agent/new-key/").status_code == 302
    assert "a new one is asked for, by" in text_of(olga.get(PAGE))
    earlier = now - timedelta(days=9)
    ask_for_new_key(site=fra.site, by=None, actor=ACTOR, now=earlier)
    assert "A new key was asked for until" in text_of(olga.get(PAGE))


def test_a_person_with_that_right_alone_may(
    viktor: Client, viewer: User, fra: FakeAgent, now: datetime
) -> None:
    viewer.user_permissions.add(Permission.objects.get(codename="change_agent"))
    assert viktor.post(f"{PAGE}agent/new-key/").status_code == 302


def test_a_site_without_an_agent_has_nothing_to_ask(olga: Client, now: datetime) -> None:
    make_site("fra", now=now)
    assert "Ask for a new key" not in text_of(olga.get(PAGE))
    assert "No agent has joined fra." in text_of(olga.get(f"{PAGE}agent/new-key/"))


def test_a_join_that_was_refused_is_an_alert_for_a_day(
    olga: Client, fra: FakeAgent, now: datetime
) -> None:
    _, secret = create_enrolment_token(site=fra.site, actor=ACTOR, now=now)
    keys = ["A" * 43 + "=", "B" * 42 + "A="]
    facts: dict[str, Any] = {"token": secret, "agent_version": "1", "now": now}
    enrol_agent(**facts, public_key=keys[0], hostname="box-1")
    with pytest.raises(Conflict):
        enrol_agent(**facts, public_key=keys[1], hostname="elsewhere")
    html = text_of(olga.get(PAGE))
    assert "A used enrolment token came with another key" in html
    assert "calls itself elsewhere" in html


def test_an_agent_of_another_protocol_is_named_with_both_versions(
    olga: Client, fra: FakeAgent
) -> None:
    Agent.objects.update(refused_protocol="0", agent_version="0.0.9")
    html = text_of(olga.get(PAGE))
    assert "The agent (version 0.0.9) speaks protocol 0, this centre speaks 1" in html


def test_the_inventory_says_what_was_reported(olga: Client, fra: FakeAgent, now: datetime) -> None:
    machine(fra, now=now)
    html = text_of(olga.get(PAGE))
    for words in ("backends: not reported", "extensions: not reported", "round trip not reported",
                  "download not measured", "<dt>Booted</dt><dd>not reported"):  # fmt: skip
        assert words in html, words
    gpu = AcceleratorFacts(
        uuid="GPU-1", name="NVIDIA L4", compute_capability="8.9", power_limit_watts=72.0
    )
    tritons = (
        TritonServerFacts(
            name="big", version="2.51.0", live=True, extensions=("logging",), backends=("python",)
        ),
        TritonServerFacts(name="small", version="2.71.0", live=False),
    )
    machine(
        fra, now=now, disk_free_bytes=2**30, disk_total_bytes=2**31, round_trip_seconds=0.042,
        download_bytes_per_second=3 * 2**20, accelerators=(gpu,), tritons=tritons,
    )  # fmt: skip
    html = text_of(olga.get(PAGE))
    for words in (
        "1.0 GiB of 2.0 GiB",
        "round trip 42 ms",
        "3.0 MiB/s",
        "compute 8.9, up to 72 W",
        "backends: python",
        "extensions: logging",
        "small answers</dt><dd>no",
    ):
        assert words in html, words
    assert html.count("has known critical faults") == 1


def test_no_accelerator_is_said_where_somebody_looked(
    olga: Client, fra: FakeAgent, now: datetime
) -> None:
    machine(fra, now=now, accelerators=())
    assert "<dt>Accelerators</dt><dd>none</dd>" in text_of(olga.get(PAGE))


def measure(agent: FakeAgent, *, now: datetime, age: float = 5.0) -> None:
    said = Measurement(
        boot_id="boot-1", seq=1, seconds=60.0, age_seconds=age, dropped=0,
        models=(
            ModelCounts(
                server="", model="vad", version=2, requests=600, failures={"BACKEND": 6},
                request_us=5_940_000, latency_ms={"bounds": [10.0, 50.0], "counts": [500, 90, 4]},
            ),
            ModelCounts(server="", model="asr", version=1, requests=0, failures={}),
        ),
        accelerators=(AcceleratorGauges(uuid="GPU-1", utilization=0.62, power_watts=51.5),),
    )  # fmt: skip
    record_measurement(caller=agent.caller(now=now), measurement=said, now=now)


def test_what_was_measured_is_figures_with_their_time(
    olga: Client, fra: FakeAgent, now: datetime
) -> None:
    assert "Nothing was measured here in the last day." in text_of(olga.get(PAGE))
    measure(fra, now=now)
    html = text_of(olga.get(PAGE)).split('id="measured-title"')[1].split("</section>")[0]
    for words in ("<td>10</td>", "<td>1 %</td>", "<td>10 ms</td>", "at most 50 ms", "no request",
                  "<td>62 %</td>", "51.5 W", "<td>not reported</td>"):  # fmt: skip
        assert words in html, words
    assert "stale" not in html


def test_old_figures_are_shown_as_old(olga: Client, fra: FakeAgent, now: datetime) -> None:
    measure(fra, now=now, age=900.0)
    html = text_of(olga.get(PAGE)).split('id="measured-title"')[1].split("</section>")[0]
    assert "stale" in html
