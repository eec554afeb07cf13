"""Which build of a version a site gets: always one that fits, always the same one, and why."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.fit import best_of, judge
from controlplane.domain.fit_facts import Demand, Gpu, Machine, Profile, SiteFacts, Triton
from controlplane.domain.variants import Chooser, Offered, choose

GIB = 1 << 30
CAPABILITIES = ("8.0", "8.6", "8.9", "9.0")


def build(name: str, priority: int = 0, size: int = 1, **requires: object) -> Offered:
    demand = Demand(model="vad", size_bytes=size, requires=requires)
    return Offered(name=name, priority=priority, demand=demand)


def site(capability: str | None = None, free: int = 100 * GIB) -> SiteFacts:
    gpus = () if capability is None else (Gpu(name="gpu", compute_capability=capability),)
    machine = Machine(gpus=gpus, tritons=(Triton(tensorrt="10.3"),))
    return SiteFacts(profile=Profile(machine=machine), disk_free_bytes=free)


TRT = build("trt-8.9", 10, compute_capability_exact="8.9")
ONNX = build("onnx")


def test_the_highest_priority_that_fits_is_taken() -> None:
    assert choose([ONNX, TRT], [site("8.9")]).variant == "trt-8.9"
    assert choose([ONNX, TRT], [site()]).variant == "onnx"


def test_the_fallback_is_explained() -> None:
    choice = choose([ONNX, TRT], [site("8.6")])
    assert choice.why == (
        "trt-8.9 needs compute capability 8.9, the site has 8.6; onnx is the next and fits"
    )
    assert [name for name, _ in choice.rejected] == ["trt-8.9"]


def test_equal_priorities_go_by_name() -> None:
    assert choose([build("b"), build("a")], [site()]).variant == "a"


def test_where_none_fits_there_is_none_and_each_is_named() -> None:
    choice = choose([TRT, build("trt-8.0", compute_capability_exact="8.0")], [site("8.6")])
    assert choice.variant is None
    assert choice.why.startswith("no build fits: trt-8.9 needs")
    assert "trt-8.0 needs" in choice.why


def test_what_is_not_known_is_said_with_the_choice() -> None:
    choice = choose([TRT], [SiteFacts(profile=Profile(machine=Machine()))])
    assert choice.variant == "trt-8.9"
    assert "not known: disk, accelerator" in choice.why


def test_each_site_has_its_own_disk_though_the_rest_is_the_same() -> None:
    chooser = Chooser.of([build("large", 1, 50 * GIB), build("small")])
    assert chooser.choose([site(free=100 * GIB)]).variant == "large"
    assert chooser.choose([site(free=10 * GIB)]).variant == "small"
    assert chooser.choose([site(free=100 * GIB)]).variant == "large"


builds = st.lists(
    st.builds(
        lambda name, priority, size, least, exact: build(
            name,
            priority,
            size,
            **({"compute_capability": least} if least else {}),
            **({"compute_capability_exact": exact} if exact else {}),
        ),
        st.sampled_from("abcdef"),
        st.integers(-3, 3),
        st.integers(0, 20 * GIB),
        st.none() | st.sampled_from(CAPABILITIES),
        st.none() | st.sampled_from(CAPABILITIES),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.name,
)
sites = st.lists(
    st.builds(site, st.none() | st.sampled_from(CAPABILITIES), st.integers(0, 40 * GIB)),
    min_size=1,
    max_size=3,
)


@given(builds, sites, st.randoms())
def test_the_choice_fits_is_the_best_that_does_and_never_depends_on_the_order(
    offered: list[Offered], servers: list[SiteFacts], chance: object
) -> None:
    choice = choose(offered, servers)
    fitting = [b for b in offered if best_of(judge(b.demand, f) for f in servers).fits]
    best = min(fitting, key=lambda b: (-b.priority, b.name), default=None)
    assert choice.variant == (best.name if best else None)
    assert choice.judged.fits == (best is not None)
    shuffled = list(offered)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis's own random
    assert choose(shuffled, servers) == choice
    assert Chooser.of(offered).choose(servers) == choice


@given(builds, st.lists(sites, min_size=2, max_size=5))
def test_what_was_judged_for_one_site_never_shows_at_another(
    offered: list[Offered], many: list[list[SiteFacts]]
) -> None:
    chooser = Chooser.of(offered)
    assert [chooser.choose(each) for each in many] == [choose(offered, each) for each in many]
