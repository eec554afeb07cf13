"""A version in several builds: each site gets the one that fits it, is judged among its own kind,
and goes back to the very build that it had."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.catalog.footprints import Learned
from controlplane.catalog.models import ContentClass, LearnedFootprint, Variant, Version
from controlplane.catalog.models import VersionState as State
from controlplane.catalog.services import create_version
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.manifest import SCHEMA_OF_VARIANTS
from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.stages import StageSpec
from controlplane.fleet.inventory import AcceleratorFacts, MachineFacts, TrustFacts
from controlplane.fleet.models import Agent, Site
from controlplane.fleet.waivers import restore_triton_floor, waive_triton_floor
from controlplane.rollouts.drift import correct_drift
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel
from controlplane.rollouts.planning import RolloutPlan, plan_rollout
from controlplane.rollouts.queries import site_may_read
from controlplane.rollouts.site_fits import site_fits
from tests.factories import ACTOR, make_joined_site, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import one_stage, part, parts, running, start, turn

pytestmark = pytest.mark.django_db

ALL = one_stage()
GIB = 1 << 30
BUILDS: Mapping[str, Mapping[str, Any]] = {
    "trt-8.9": {"priority": 10, "requires": {"compute_capability_exact": "8.9"}},
    "onnx": {},
}


def build_files(text: str) -> list[dict[str, object]]:
    found = []
    for path in ("config.pbtxt", "golden.json", "model.onnx"):
        data = f"{path} {text}".encode()
        digest = hashlib.sha256(data).hexdigest()
        found.append({"path": path, "size": len(data), "sha256": digest})
    return found


def make_builds(
    builds: Mapping[str, Mapping[str, Any]] = BUILDS, *, label: str = "1", now: datetime
) -> Version:
    """Approved by hand: what is in the files is no matter here."""
    entries = [
        {"name": name, "files": build_files(f"{label} {name}"), **more}
        for name, more in builds.items()
    ]
    manifest = {"schema": SCHEMA_OF_VARIANTS, "variants": entries}
    version, _ = create_version(
        model_name="vad", number=None, manifest=manifest, actor=ACTOR, now=now
    )
    version.state = State.APPROVED
    version.save(update_fields=["state"])
    return version


def site_with(name: str, capability: str | None, *, now: datetime) -> FakeAgent:
    agent = make_joined_site(name, now=now)
    cards = () if capability is None else (card(capability),)
    agent.send(now=now, machine=machine(name, *cards))
    return agent


def card(capability: str) -> AcceleratorFacts:
    name = f"GPU {capability}"
    return AcceleratorFacts(
        uuid=f"GPU-{capability}", name=name, memory_bytes=24 * GIB, compute_capability=capability
    )


def machine(name: str, *cards: AcceleratorFacts, **more: Any) -> MachineFacts:
    return MachineFacts(
        hostname=f"{name}-1", disk_free_bytes=100 * GIB, memory_bytes=64 * GIB, accelerators=cards,
        **more,
    )  # fmt: skip


def plan_of(version: Version, *, now: datetime, stages: Sequence[StageSpec] = ALL) -> RolloutPlan:
    return plan_rollout(model_name="vad", version_number=version.number, stages=stages, now=now)


def builds_of(rollout: Rollout, kind: str = DeploymentKind.FORWARD) -> dict[str, str]:
    rows = Deployment.objects.filter(rollout=rollout, kind=kind, superseded=False)
    return dict(rows.order_by("site__name").values_list("site__name", "variant"))


def wished(agent: FakeAgent) -> str | None:
    row = SiteModel.objects.select_related("desired_variant").get(site=agent.site)
    return row.desired_variant.name if row.desired_variant else None


# The catalogue


def test_a_version_of_one_build_has_one_called_default(now: datetime) -> None:
    version = make_version(now=now)
    (only,) = version.variants.all()
    assert (only.name, only.manifest, only.size_bytes) == (
        "default", version.manifest, version.size_bytes,
    )  # fmt: skip


def test_each_build_is_a_row_and_its_files_are_named_by_it(now: datetime) -> None:
    version = make_builds(now=now)
    trt, onnx = version.variants.all()
    assert (trt.name, onnx.name) == ("trt-8.9", "onnx")
    assert trt.manifest["schema"] == "waypost.manifest/1"
    assert version.size_bytes == trt.size_bytes + onnx.size_bytes
    paths = set(version.files.values_list("path", flat=True))
    assert {"onnx/config.pbtxt", "trt-8.9/model.onnx"} <= paths


def test_the_same_builds_again_are_the_same_version(now: datetime) -> None:
    version = make_builds(now=now)
    assert make_builds(now=now).pk == version.pk
    assert Variant.objects.filter(version=version).count() == 2


# The plan


def test_a_plan_gives_each_site_its_build(now: datetime) -> None:
    site_with("new", "8.9", now=now), site_with("old", "8.6", now=now)
    plan = plan_of(make_builds(now=now), now=now)
    assert plan.plan.variants == {"new": "trt-8.9", "old": "onnx"}
    assert plan.stages[0].variants == {"trt-8.9": 1, "onnx": 1}


def test_a_site_where_no_build_can_live_is_left_out_and_told_why(now: datetime) -> None:
    only = {f"trt-{c}": {"requires": {"compute_capability_exact": c}} for c in ("8.9", "9.0")}
    site_with("new", "8.9", now=now), site_with("bare", None, now=now)
    plan = plan_of(make_builds(only, now=now), now=now)
    ((name, reason),) = plan.plan.excluded
    assert name == "bare"
    assert "needs an accelerator of compute capability 8.9, the site has none" in reason


def test_the_digest_says_who_gets_which_build(now: datetime) -> None:
    agent = site_with("new", "8.9", now=now)
    version = make_builds(now=now)
    before = plan_of(version, now=now).digest
    assert plan_of(version, now=now).digest == before
    agent.send(now=now, machine=machine("new", card("8.6")))
    assert plan_of(version, now=now).digest != before


def test_the_first_stage_is_told_which_builds_it_does_not_show(now: datetime) -> None:
    site_with("new", "8.9", now=now), site_with("old", "8.6", now=now)
    stages = (
        StageSpec(name="canary", sites=frozenset({"old"}), soak_seconds=0),
        StageSpec(name="rest", soak_seconds=0),
    )
    warnings = plan_of(make_builds(now=now), stages=stages, now=now).warnings
    assert "stage canary has no site with variant trt-8.9, which later stages have" in warnings


# The rollout


def test_agents_are_given_their_build_alone(now: datetime) -> None:
    new, old = site_with("new", "8.9", now=now), site_with("old", "8.6", now=now)
    version = make_builds(now=now)
    rollout = running(version, now=now)
    assert builds_of(rollout) == {"new": "trt-8.9", "old": "onnx"}
    for agent, name in ((new, "trt-8.9"), (old, "onnx")):
        wish, build = agent.wishes(now=now)["vad"], version.variants.get(name=name)
        assert wish["manifest"] == build.manifest
        assert wish["manifest_digest"] == build.manifest_digest
        file = build.manifest["files"][0]
        assert site_may_read(site_id=agent.site.pk, sha256=file["sha256"]) == file["size"]
    why = part(rollout, old).variant_reason
    assert why.startswith("trt-8.9 needs compute capability 8.9, the site has 8.6; onnx is")


def test_a_lease_is_for_the_build_that_is_wished(now: datetime) -> None:
    new = site_with("new", "8.9", now=now)
    version = make_builds(now=now)
    running(version, now=now)
    other = version.variants.get(name="onnx").manifest_digest
    for digest in (other, version.manifest_digest):
        with pytest.raises(Conflict, match="not what is wished"):
            new.ask_lease("vad", now=now, manifest_digest=digest)
    assert new.ask_lease("vad", now=now).granted


def test_a_build_that_fails_stops_a_stage_that_would_bear_as_many(now: datetime) -> None:
    agents = [site_with(f"old-{n}", "8.6", now=now) for n in range(8)]
    new = [site_with(f"new-{n}", "8.9", now=now) for n in range(2)]
    first = make_builds(now=now)
    settle(running(first, now=now), [*agents, *new], now=now)
    second = make_builds(label="2", now=now)
    for agent in new:
        agent.broken.add(("vad", second.number))
    policy = StagePolicy(failures_tolerated="25%", max_unavailable="100%")
    stages = (StageSpec(name="all", soak_seconds=0, policy=policy),)
    rollout = running(second, stages, now=now)
    settle(rollout, [*agents, *new], now=now)
    rollout.refresh_from_db()
    assert rollout.state == "rolled_back"
    assert "of variant trt-8.9 failed" in rollout.cause
    assert "variant onnx: 0 of 8" in rollout.cause
    assert {wished(agent) for agent in agents} == {"onnx"}
    assert {wished(agent) for agent in new} == {"trt-8.9"}
    assert set(SiteModel.objects.values_list("desired", flat=True)) == {first.pk}


def test_as_one_build_the_same_failures_are_borne(now: datetime) -> None:
    agents = [site_with(f"s-{n}", "8.9", now=now) for n in range(10)]
    version = make_version(now=now)
    for agent in agents[:2]:
        agent.broken.add(("vad", version.number))
    policy = StagePolicy(failures_tolerated="25%", max_unavailable="100%")
    stages = (StageSpec(name="all", soak_seconds=0, policy=policy),)
    rollout = running(version, stages, now=now)
    settle(rollout, agents, now=now)
    rollout.refresh_from_db()
    assert rollout.state == "succeeded_with_exceptions"


def test_each_site_goes_back_to_the_very_build_it_had_though_another_fits_now(
    now: datetime,
) -> None:
    agent = site_with("new", "8.9", now=now)
    first = make_builds(now=now)
    settle(running(first, now=now), [agent], now=now)
    assert wished(agent) == "trt-8.9"
    second = make_version(now=now)
    rollout = running(second, now=now)
    # Nobody could look at its accelerators meanwhile: the old build is what it had all the same.
    trt = first.variants.get(name="trt-8.9")
    Variant.objects.filter(pk=trt.pk).update(priority=-10)
    agent.broken.add(("vad", second.number))
    settle(rollout, [agent], now=now)
    assert wished(agent) == "trt-8.9"
    assert builds_of(rollout, DeploymentKind.ROLLBACK) == {"new": "trt-8.9"}
    assert agent.wishes(now=now)["vad"]["manifest_digest"] == trt.manifest_digest


def test_a_site_whose_hardware_fits_no_build_any_more_is_refused_when_its_turn_comes(
    now: datetime,
) -> None:
    agent = site_with("new", None, now=now)
    version = make_version(now=now)
    rollout = start(version, now=now)
    Agent.objects.filter(pk=agent.agent_id).update(executable_allowed=False)
    turn(rollout, now=now)
    row = part(rollout, agent)
    assert (row.state, row.reason_code) == (D.REJECTED, "does-not-fit")
    assert "allow_executable = true" in row.reason
    assert not SiteModel.objects.filter(site=agent.site).exists()


def test_who_joins_late_gets_the_build_that_fits(now: datetime) -> None:
    first = site_with("new", "8.9", now=now)
    stages = (*ALL, StageSpec(name="late", soak_seconds=0, trailing=True))
    rollout = running(make_builds(now=now), stages, now=now)
    later = now + timedelta(minutes=1)
    late = site_with("old", "8.6", now=later)
    settle(rollout, [first, late], now=later)
    assert parts(rollout) == {"new": D.SUCCEEDED, "old": D.SUCCEEDED}
    assert wished(late) == "onnx"


def test_a_correction_of_drift_brings_back_the_build_that_was_wished(now: datetime) -> None:
    agent = site_with("old", "8.6", now=now)
    version = make_builds(now=now)
    settle(running(version, now=now), [agent], now=now)
    agent.serving["vad"] = None
    agent.report("vad", "succeeded", now=now, serving=None)
    for hours in (1, 2):
        correct_drift(now=now + timedelta(hours=hours))
    assert wished(agent) == "onnx"


# What agents say of themselves


def test_what_a_load_took_is_kept_by_build_and_hardware_and_only_grows(now: datetime) -> None:
    agent = site_with("new", "8.9", now=now)
    version = make_builds(now=now)
    settle(running(version, now=now), [agent], now=now)
    for size, seconds in ((4, 2.0), (6, 1.0), (5, None)):
        learned = Learned(load_seconds=seconds, accelerator_memory_bytes=size * GIB)
        agent.report("vad", "succeeded", now=now, learned=learned)
    (row,) = LearnedFootprint.objects.all()
    assert row.manifest_digest == version.variants.get(name="trt-8.9").manifest_digest
    assert (row.hardware, row.accelerator_memory_bytes) == ("GPU 8.9", 6 * GIB)
    assert (row.load_seconds, row.memory_bytes) == (2.0, None)


def test_a_learned_footprint_that_does_not_fit_sends_the_next_site_another_build(
    now: datetime,
) -> None:
    site_with("new", "8.9", now=now)
    version = make_builds(now=now)
    trt = version.variants.get(name="trt-8.9")
    LearnedFootprint.objects.create(
        manifest_digest=trt.manifest_digest,
        hardware="GPU 8.9",
        accelerator_memory_bytes=25 * GIB,
        learned_at=now,
    )
    assert plan_of(version, now=now).plan.variants == {"new": "onnx"}


def test_what_an_agent_allows_and_trusts_is_written_when_it_changes(now: datetime) -> None:
    agent = make_joined_site("edge", now=now)
    trust = TrustFacts(unsigned="refused", keys=("ab" * 32,))
    agent.send(now=now, machine=machine("edge", executable_allowed=False, trust=trust))
    row = Agent.objects.get(pk=agent.agent_id)
    assert (row.executable_allowed, row.trust) == (
        False, {"unsigned": "refused", "keys": ["ab" * 32]},
    )  # fmt: skip
    agent.send(now=now, machine=machine("edge"))  # an older agent says nothing of it
    assert Agent.objects.get(pk=agent.agent_id).executable_allowed is False


# Who can take it


def test_fit_names_the_build_and_what_speaks_against_the_others(now: datetime) -> None:
    site_with("new", "8.9", now=now), site_with("old", "8.6", now=now)
    new, old = site_fits(make_builds(now=now), lambda traits: True)
    assert (new.traits.name, new.choice.variant, new.verdict.value) == ("new", "trt-8.9", "ok")
    assert (old.traits.name, old.choice.variant) == ("old", "onnx")
    assert [name for name, _ in old.choice.rejected] == ["trt-8.9"]


def test_fit_takes_as_many_queries_for_many_sites_as_for_few(
    now: datetime, django_assert_max_num_queries: Any
) -> None:
    version = make_builds(now=now)
    for count in (1, 5):
        for n in range(count):
            site_with(f"s-{count}-{n}", "8.9", now=now)
        with django_assert_max_num_queries(10):
            site_fits(version, lambda traits: True)


# Below the security floor


def test_a_waiver_lets_code_go_below_the_floor_until_it_is_taken_back(now: datetime) -> None:
    agent = make_joined_site("edge", now=now)
    version = make_version(now=now)
    assert version.content_class == ContentClass.EXECUTABLE
    by: dict[str, Any] = {"actor": "user:ann", "now": now}
    restore_triton_floor(site=agent.site, reason="mended", **by)
    with pytest.raises(InvalidInput, match="security floor"):
        plan_of(version, now=now)
    waive_triton_floor(site=agent.site, reason="the wheel is older", **by)
    assert plan_of(version, now=now).plan.sites == 1
    site = Site.objects.get(pk=agent.site.pk)
    assert (site.floor_waiver, site.floor_waiver_by) == ("the wheel is older", "user:ann")


@pytest.mark.parametrize(
    ("reason", "code"), [(" ", "reason-required"), ("x" * 401, "reason-too-long")]
)
def test_a_waiver_needs_a_reason(reason: str, code: str, now: datetime) -> None:
    with pytest.raises(InvalidInput) as refused:
        waive_triton_floor(site=make_joined_site(now=now).site, reason=reason, actor=ACTOR, now=now)
    assert refused.value.code == code


# What an adversary found


def test_a_site_keeps_the_build_it_has_of_the_version(now: datetime) -> None:
    version, agent = make_builds(now=now), site_with("oslo", None, now=now)
    settle(running(version, now=now), [agent], now=now)
    assert wished(agent) == "onnx"
    agent.send(now=now, machine=machine("oslo", card("8.9")))

    assert plan_of(version, now=now).plan.variants == {"oslo": "onnx"}
    again = running(version, now=now)

    assert (builds_of(again), wished(agent)) == ({"oslo": "onnx"}, "onnx")


def test_another_build_than_was_planned_is_not_offered(now: datetime) -> None:
    version, agent = make_builds(now=now), site_with("oslo", "8.9", now=now)
    rollout = start(version, now=now)
    Variant.objects.filter(version=version, name="trt-8.9").update(size_bytes=200 * GIB)

    turn(rollout, now=now)

    row = part(rollout, agent)
    assert (row.state, row.reason_code) == ("rejected", "build-changed")
    assert "planned for variant trt-8.9" in row.reason


def test_trying_again_keeps_the_build_and_asks_for_no_disk_again(now: datetime) -> None:
    version, agent = make_builds(now=now), site_with("oslo", "8.9", now=now)
    rollout = running(version, one_stage(retries=1, retry_after_seconds=1), now=now)
    Variant.objects.filter(version=version).update(size_bytes=200 * GIB)
    agent.report("vad", "failed", reason_code="load-failed", now=now)

    for seconds in (1, 2, 3):
        turn(rollout, now=now + timedelta(seconds=seconds))

    row = part(rollout, agent)
    assert (row.attempt, row.state, row.variant) == (2, "offered", "trt-8.9")


def test_a_plain_build_goes_where_nobody_knows_the_hardware(now: datetime) -> None:
    version = make_builds(now=now)
    make_joined_site("dark", now=now)

    assert plan_of(version, now=now).plan.variants == {"dark": "onnx"}


def test_a_figure_beyond_the_machine_is_not_believed(now: datetime) -> None:
    version, agent = make_builds(now=now), site_with("oslo", "8.9", now=now)
    running(version, now=now)

    liar = Learned(memory_bytes=1 << 49, accelerator_memory_bytes=1 << 49, load_seconds=2.0)
    agent.report("vad", "succeeded", learned=liar, now=now)

    row = LearnedFootprint.objects.get()
    assert (row.memory_bytes, row.accelerator_memory_bytes, row.load_seconds) == (None, None, 2.0)
