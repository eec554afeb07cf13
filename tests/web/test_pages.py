"""Each page shows what it promises."""

from datetime import datetime, timedelta

from django.test import Client

from controlplane.domain.rollout import RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.fleet.inventory import AcceleratorFacts, MachineFacts, record_machine
from tests.factories import make_joined_site, make_rollout, make_site, make_version, settle
from tests.web.conftest import text_of


def test_an_empty_installation_shows_three_steps_to_copy(olga: Client) -> None:
    html = text_of(olga.get("/"))
    for command in ("waypost sites add", "waypost sites token", "waypost push"):
        assert command in html
    assert html.count("data-copy=") == 3


def test_the_counters_of_the_overview_are_filters_of_the_list(olga: Client, now: datetime) -> None:
    make_site("never-joined", now=now)
    make_joined_site("silent", now=now - timedelta(days=1))
    fresh = make_joined_site("fresh", now=now)
    only_fresh = [StageSpec(name="one", sites=frozenset({"fresh"}), soak_seconds=0)]
    make_rollout(RolloutState.SUCCEEDED, agents=[fresh], stages=only_fresh, now=now)
    overview = olga.get("/")
    counters = dict(overview.context["counters"])
    assert counters["new"] == 1
    assert counters["healthy"] == 1
    assert sum(counters.values()) == 3
    for health, count in counters.items():
        assert f"/sites/?health={health}" in text_of(overview)
        listed = olga.get(f"/sites/?health={health}").context["statuses"]
        assert len(listed) == count, health


def test_the_list_of_sites_is_filtered_and_paged_by_its_address(
    olga: Client, now: datetime
) -> None:
    for index in range(60):
        make_site(f"site-{index:03}", tier="edge" if index % 2 else "regional", now=now)
    make_site("lone", tier="edge", region="us-west", now=now)
    first = olga.get("/sites/?tier=edge")
    assert first.context["page"].paginator.count == 31
    lone = text_of(olga.get("/sites/?tier=edge&region=us-west"))
    assert "lone" in lone
    assert "site-001" not in lone
    second = text_of(olga.get("/sites/?page=2&health=new"))
    assert "Page 2 of 2" in second
    assert "?page=1&amp;health=new" in second
    assert "No site matches" in text_of(olga.get("/sites/?region=nowhere"))


def test_a_site_shows_desired_against_reported_in_words(olga: Client, now: datetime) -> None:
    agent = make_joined_site("fra", now=now)
    rollout = make_rollout(RolloutState.RUNNING, agents=[agent], now=now)
    model = rollout.model.name
    assert "unknown" in text_of(olga.get("/sites/fra/"))
    agent.report(model, "downloading", now=now, reason="half of 4 MiB")
    moving = text_of(olga.get("/sites/fra/"))
    assert "moving" in moving
    assert "half of 4 MiB" in moving
    settle(rollout, [agent], now=now)
    assert "equal" in text_of(olga.get("/sites/fra/"))


def test_what_nobody_reported_is_not_shown_as_nothing(olga: Client, now: datetime) -> None:
    agent = make_joined_site("fra", now=now)
    machine = MachineFacts(hostname="box-1", cpu_count=8)
    record_machine(caller=agent.caller(now=now), machine=machine, now=now)
    html = text_of(olga.get("/sites/fra/"))
    assert "box-1" in html
    assert "<dt>Accelerators</dt><dd>not reported</dd>" in html
    assert "<dt>Memory</dt><dd>not reported</dd>" in html
    gpu = AcceleratorFacts(uuid="GPU-1", name="NVIDIA L4", memory_bytes=24 * 2**30)
    machine = MachineFacts(hostname="box-1", cpu_count=8, accelerators=(gpu,))
    record_machine(caller=agent.caller(now=now), machine=machine, now=now)
    assert "NVIDIA L4, 24.0 GiB, driver not reported" in text_of(olga.get("/sites/fra/"))


def test_a_rollout_page_names_stages_sites_exclusions_and_people(
    olga: Client, now: datetime
) -> None:
    make_site("unjoined", now=now)
    agents = [make_joined_site(f"site-{n}", now=now) for n in range(3)]
    agents[2].broken.add(("vad", 1))
    stages = [
        StageSpec(name="canary", percent=34, soak_seconds=0),
        StageSpec(name="rest", soak_seconds=0),
    ]
    rollout = make_rollout(
        RolloutState.RUNNING, agents=agents, stages=stages, note="better recall", now=now
    )
    html = text_of(olga.get(f"/rollouts/{rollout.pk}/"))
    for words in (
        "1. canary", "2. rest", "34 %", "better recall", "user:tests", "no agent has joined",
    ):  # fmt: skip
        assert words in html
    assert "Pause" in html


def test_sites_in_trouble_stand_first_in_their_stage(olga: Client, now: datetime) -> None:
    agents = [make_joined_site(f"site-{n:02}", now=now) for n in range(30)]
    rollout = make_rollout(RolloutState.RUNNING, agents=agents, now=now)
    model = rollout.model.name
    agents[0].report(model, "succeeded", now=now)
    agents[29].report(model, "failed", now=now, reason="golden request 2 differs")
    panel = olga.get(f"/rollouts/{rollout.pk}/").context["stages"][0]
    assert panel.rows[0].site.name == "site-29"
    assert "site-00" not in {row.site.name for row in panel.rows}
    assert panel.hidden == 5
    whole = text_of(olga.get(f"/rollouts/{rollout.pk}/stages/all/"))
    assert whole.count('<tr id="deployment-') == 30
    assert whole.index("site-29") < whole.index("site-01") < whole.index("site-00")


def test_a_final_rollout_offers_nothing_and_says_so(olga: Client, now: datetime) -> None:
    rollout = make_rollout(RolloutState.ROLLED_BACK, now=now)
    html = text_of(olga.get(f"/rollouts/{rollout.pk}/"))
    assert "This rollout is final" in html
    assert "data-dialog" not in html
    assert "hx-trigger" not in html


def test_rollouts_are_filtered_by_model_and_state(olga: Client, now: datetime) -> None:
    agent = make_joined_site(now=now)
    vad = make_version("vad", now=now)
    make_rollout(RolloutState.SUCCEEDED, version=vad, agents=[agent], now=now)
    make_rollout(version=make_version("ocr", now=now), agents=[agent], now=now)
    assert len(olga.get("/rollouts/?model=vad").context["rows"]) == 1
    assert len(olga.get("/rollouts/?state=planned").context["rows"]) == 1
    assert "No rollout matches" in text_of(olga.get("/rollouts/?model=vad&state=planned"))


def test_a_version_shows_its_files_its_digest_and_where_it_runs(
    olga: Client, now: datetime
) -> None:
    agent = make_joined_site("fra", now=now)
    rollout = make_rollout(RolloutState.SUCCEEDED, agents=[agent], now=now)
    version = rollout.version
    html = text_of(olga.get(f"/models/{version.model.name}/{version.number}/"))
    assert version.manifest_digest in html
    for file in version.files.all():
        assert file.path in html
        assert file.sha256 in html
    assert "/sites/fra/" in html
    assert f"/rollouts/{rollout.pk}/" in html


def test_an_unfinished_push_cannot_be_rolled_out_and_says_why(olga: Client, now: datetime) -> None:
    version = make_version("vad", registered=False, now=now)
    html = text_of(olga.get(f"/models/vad/{version.number}/"))
    assert "once every file is uploaded" in html
