"""What a site did between two looks, how it waits on the disk, and how it reaches the centre."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_triton import FakeClock
from waypost_agent.accelerators import GpuReading
from waypost_agent.centre import CentreAnswer, CentreProblem, CentreSilent
from waypost_agent.deliveries import AT_ONCE, Deliveries
from waypost_agent.deltas import model_deltas
from waypost_agent.errors import AnswerError
from waypost_agent.measurement_queue import MeasurementQueue
from waypost_agent.measurements import Collector, Measuring
from waypost_agent.triton_metrics import GpuGauges, Histogram, ModelCounts, Scrape

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "protocol"
ECHO = ("echo", "1")


def counts(succeeded: int, **more: Any) -> ModelCounts:
    facts: dict[str, Any] = {
        "succeeded": succeeded,
        "exec_count": succeeded // 2,
        "request_us": succeeded * 100,
        "queue_us": succeeded * 10,
    }
    return ModelCounts(**{**facts, **more})


def scrape(*counted: ModelCounts, model: tuple[str, str] = ECHO, **gpus: GpuGauges) -> Scrape:
    return Scrape(models=dict.fromkeys([model], counted[0]) if counted else {}, gpus=gpus)


def delta(before: Scrape, after: Scrape) -> dict[str, Any]:
    (entry,) = model_deltas("", before, after)
    return entry


def test_what_was_done_is_the_difference() -> None:
    entry = delta(scrape(counts(10)), scrape(counts(16)))
    assert (entry["server"], entry["model"], entry["version"]) == ("", "echo", "1")
    assert (entry["requests"], entry["batch_executions"]) == (6, 3)
    assert (entry["request_us"], entry["queue_us"], entry["compute_infer_us"]) == (600, 60, 0)
    assert entry["failures"] == {}
    assert "latency_ms" not in entry


def test_a_version_that_was_loaded_anew_counts_from_nothing() -> None:
    """The time per request may have risen beyond what it was: the whole is one reset."""
    after = counts(3, request_us=99_999)
    assert delta(scrape(counts(10)), scrape(after))["requests"] == 3
    assert delta(scrape(counts(10)), scrape(after))["request_us"] == 99_999


def test_a_version_that_is_new_counts_from_nothing() -> None:
    assert delta(scrape(), scrape(counts(7)))["requests"] == 7


def test_a_version_that_is_gone_is_not_spoken_of() -> None:
    assert model_deltas("", scrape(counts(7)), scrape()) == []


def test_a_version_that_left_nothing_but_old_failures_is_not_spoken_of() -> None:
    left = ModelCounts(failures={"BACKEND": 4})
    assert model_deltas("", scrape(counts(7, failures={"BACKEND": 4})), scrape(left)) == []
    assert delta(scrape(left), scrape(ModelCounts(failures={"BACKEND": 5})))["requests"] == 1


def test_failures_outlive_a_load_and_are_counted_once() -> None:
    before = scrape(counts(10, failures={"BACKEND": 4}))
    after = scrape(counts(2, failures={"BACKEND": 5, "REJECTED": 1}))
    entry = delta(before, after)
    assert entry["failures"] == {"BACKEND": 1, "REJECTED": 1}
    assert entry["requests"] == 4  # two that failed and the two since the load
    restarted = scrape(counts(1, failures={"BACKEND": 2}))
    assert delta(before, restarted)["failures"] == {"BACKEND": 2}


def test_a_histogram_is_subtracted_bucket_by_bucket() -> None:
    def latency(*numbers: int) -> Histogram:
        return Histogram(bounds=(10.0, 100.0), counts=numbers, sum_ms=1.0)

    before = scrape(counts(10, latency_ms=latency(5, 3, 2)))
    after = scrape(counts(20, latency_ms=latency(9, 3, 8)))
    assert delta(before, after)["latency_ms"] == {"bounds": [10.0, 100.0], "counts": [4, 0, 6]}
    fallen = scrape(counts(20, latency_ms=latency(9, 1, 8)))
    assert delta(before, fallen)["latency_ms"]["counts"] == [9, 1, 8]
    other = Histogram(bounds=(5.0,), counts=(1, 1), sum_ms=0.0)
    assert delta(before, scrape(counts(20, latency_ms=other)))["latency_ms"]["counts"] == [1, 1]


def test_candidates_and_what_is_no_number_are_left_out() -> None:
    for name in (("echo--candidate", "1"), ("echo", "v2"), ("echo", "")):
        assert model_deltas("", scrape(), scrape(counts(7), model=name)) == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=30))
def test_over_any_story_of_loads_nothing_is_counted_twice_or_below_nothing(
    story: list[tuple[bool, int]],
) -> None:
    """Each step serves some requests, after a load anew or not; every look but the first counts."""
    seen, count, served, told = scrape(counts(0)), 0, 0, 0
    for reloaded, requests in story:
        count = requests if reloaded else count + requests
        served += requests
        now = scrape(counts(count))
        requests = [entry["requests"] for entry in model_deltas("", seen, now)]
        assert min(requests, default=0) >= 0
        told, seen = told + sum(requests), now
    assert told <= served


class Bench:
    """A collector with one server and one GPU, of the test's making."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.scrape: Scrape | None = scrape(counts(0))
        self.gpus: list[GpuReading] | None = None
        self.collector = Collector({"": lambda: self.scrape}, lambda: self.gpus, self.clock)

    def measure(self, seconds: float = 60.0) -> list[dict[str, Any]]:
        self.clock.now += seconds
        return self.collector.measure()

    def measured(self, seconds: float = 60.0) -> dict[str, Any]:
        """The one interval of a look at which there is something to tell."""
        (interval,) = self.measure(seconds)
        return interval


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_of_the_time_before_the_first_look_nothing_is_said(bench: Bench) -> None:
    bench.scrape = scrape(counts(1_000_000))
    assert bench.measure() == []
    bench.scrape = scrape(counts(1_000_005))
    interval = bench.measured()
    assert interval["models"][0]["requests"] == 5
    assert interval["seconds"] == pytest.approx(60.0)
    assert interval["to_uptime"] - interval["from_uptime"] == pytest.approx(60.0)


def test_numbers_rise_with_every_interval_also_over_a_restart_of_the_agent(bench: Bench) -> None:
    bench.measure()
    numbers = [bench.measured(300.0)["seq"], bench.measured(300.0)["seq"]]
    bench.collector = Collector({}, lambda: None, bench.clock)
    bench.measure()
    numbers.append(bench.measured(300.0)["seq"])
    assert numbers == sorted(set(numbers))


def test_a_quiet_site_says_so_every_five_minutes(bench: Bench) -> None:
    bench.scrape = scrape(counts(10))
    bench.measure()
    told = [interval for _ in range(10) for interval in bench.measure()]
    assert [interval["seconds"] for interval in told] == [300.0, 300.0]
    assert [interval["models"][0]["requests"] for interval in told] == [0, 0]


def test_what_follows_a_quiet_time_is_counted_over_its_own_minute(bench: Bench) -> None:
    bench.scrape = scrape(counts(10))
    for _ in range(4):
        assert bench.measure() == []
    bench.scrape = scrape(counts(16))
    quiet, busy = bench.measure()
    assert (quiet["seconds"], quiet["models"]) == (180.0, [])
    assert (busy["seconds"], busy["models"][0]["requests"]) == (60.0, 6)
    assert quiet["to_uptime"] == busy["from_uptime"]
    assert quiet["seq"] < busy["seq"]


def test_a_server_that_could_not_be_looked_at_begins_anew(bench: Bench) -> None:
    bench.measure()
    bench.scrape = None
    assert bench.measure() == []
    bench.scrape = scrape(counts(500))
    assert bench.measure() == []
    bench.scrape = scrape(counts(503))
    _, busy = bench.measure()
    assert busy["models"][0]["requests"] == 3


def test_a_gpu_is_read_by_the_driver_and_its_energy_is_a_difference(bench: Bench) -> None:
    bench.gpus = [GpuReading(uuid="GPU-1", utilization=0.5, energy_joules=1000.0)]
    bench.measure()
    bench.gpus = [GpuReading(uuid="GPU-1", utilization=0.75, energy_joules=4000.0)]
    expected = {"uuid": "GPU-1", "utilization": 0.75, "energy_joules": 3000.0}
    assert bench.measured()["accelerators"] == [expected]
    bench.gpus = [GpuReading(uuid="GPU-1", energy_joules=5.0)]  # the driver started anew
    assert bench.measured()["accelerators"] == [{"uuid": "GPU-1"}]


def test_without_a_driver_a_gpu_is_what_triton_says(bench: Bench) -> None:
    gauges = GpuGauges(utilization=0.9, power_watts=50.0, memory_used_bytes=1)
    bench.scrape = Scrape(models={}, gpus={"GPU-1": gauges})
    bench.measure()
    (entry,) = bench.measured()["accelerators"]
    assert entry == {
        "uuid": "GPU-1", "utilization": 0.9, "power_watts": 50.0, "memory_used_bytes": 1,
    }  # fmt: skip
    bench.gpus = [GpuReading(uuid="GPU-1", utilization=0.1)]
    (entry,) = bench.measured()["accelerators"]
    assert (entry["utilization"], entry["power_watts"]) == (0.1, 50.0)


def test_a_site_without_gpus_says_nothing_of_any(bench: Bench) -> None:
    bench.measure()
    assert bench.measured(300.0)["accelerators"] == []


def interval(seq: int, clock: FakeClock, **more: Any) -> dict[str, Any]:
    facts = {"boot_id": clock.boot_id(), "seq": seq, "to_uptime": clock.boottime()}
    return {**facts, "models": [], **more}


class Waiting:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.folder = folder / "measurements"
        self.queue = self.new()

    def new(self, **bounds: int) -> MeasurementQueue:
        self.queue = MeasurementQueue(self.folder, self.clock, **bounds)
        return self.queue

    def put(self, *numbers: int) -> None:
        for seq in numbers:
            self.queue.put(interval(seq, self.clock))

    def numbers(self) -> list[int]:
        """Of all that wait, in their order; takes them."""
        found = []
        while (first := self.queue.first()) is not None:
            name, document = first
            found.append(document["seq"])
            self.queue.take(name, dropped=document["dropped"])
        return found


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    return Waiting(tmp_path)


def test_what_waits_comes_out_in_its_order_also_after_a_restart(waiting: Waiting) -> None:
    waiting.put(1, 2)
    waiting.new()
    waiting.put(3)
    assert waiting.numbers() == [1, 2, 3]
    assert len(waiting.queue) == 0


def test_the_oldest_goes_first_and_it_is_told_how_many(waiting: Waiting) -> None:
    waiting.new(max_waiting=3)
    waiting.put(*range(1, 8))
    first = waiting.queue.first()
    assert first is not None
    assert (first[1]["seq"], first[1]["dropped"]) == (5, 4)
    waiting.queue.take(first[0], dropped=4)
    again = waiting.queue.first()
    assert again is not None
    assert (again[1]["seq"], again[1]["dropped"]) == (6, 0)


def test_how_many_were_dropped_survives_a_restart_until_it_is_told(waiting: Waiting) -> None:
    waiting.new(max_waiting=1)
    waiting.put(1, 2, 3)
    waiting.new()
    first = waiting.queue.first()
    assert first is not None
    assert (first[1]["seq"], first[1]["dropped"]) == (3, 2)
    waiting.queue.take(first[0], dropped=2)
    waiting.new()
    waiting.put(4)
    again = waiting.queue.first()
    assert again is not None
    assert again[1]["dropped"] == 0


@pytest.mark.parametrize("text", ["", "many", "-3"])
def test_a_count_that_cannot_be_read_is_none(text: str, waiting: Waiting) -> None:
    waiting.put(1)
    (waiting.folder / "dropped").write_text(text)
    waiting.new()
    first = waiting.queue.first()
    assert first is not None
    assert first[1]["dropped"] == 0


def test_bytes_are_bounded_too_and_the_newest_always_stays(waiting: Waiting) -> None:
    waiting.new(max_bytes=1)
    waiting.put(1, 2, 3)
    assert waiting.numbers() == [3]


def test_how_old_it_is_counts_from_boot_whatever_the_time_of_day(waiting: Waiting) -> None:
    waiting.put(1)
    waiting.clock.now += 90.0
    first = waiting.queue.first()
    assert first is not None
    assert first[1]["age_seconds"] == pytest.approx(90.0)
    assert "at" not in first[1]


@pytest.mark.parametrize(
    ("utc", "age"), [("2026-11-23T13:12:30Z", 30.0), ("1970-01-01T00:00:30Z", None)]
)
def test_over_a_restart_of_the_machine_only_a_sound_clock_tells_its_age(
    utc: str, age: float | None, waiting: Waiting
) -> None:
    waiting.clock.utc = "2026-11-23T13:12:00Z"
    waiting.put(1)
    waiting.clock.boot, waiting.clock.utc = "boot-2", utc
    first = waiting.queue.first()
    assert (None if first is None else first[1]["age_seconds"]) == age
    assert len(waiting.queue) == (0 if age is None else 1)


@pytest.mark.parametrize(
    "data", [b"", b"\x1f\x8b torn", gzip.compress(b"[1]"), gzip.compress(b"{")], ids=repr
)
def test_what_a_power_cut_spoiled_is_left_out_and_counted(data: bytes, waiting: Waiting) -> None:
    waiting.put(1, 2)
    sorted(waiting.folder.iterdir())[0].write_bytes(data)
    first = waiting.queue.first()
    assert first is not None
    assert (first[1]["seq"], first[1]["dropped"]) == (2, 1)


def test_a_disk_that_is_full_costs_that_interval_alone(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    waiting.folder.parent.joinpath("measurements").write_text("in the way of the folder")
    bench = Bench()
    measuring = Measuring(bench.collector, waiting.queue, every_seconds=60.0)
    measuring.turn()
    bench.clock.now += 300.0
    measuring.turn()
    assert "an interval was not measured" in caplog.text


class Desk:
    """A centre that answers as told; `asked` are the numbers that reached it."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.asked: list[int] = []
        self.fault: Exception | None = None
        self.deliveries = Deliveries(waiting.queue, waiting.clock, lambda low, high: high)

    def post(self, document: Any) -> CentreAnswer:
        self.asked.append(document["seq"])
        if self.fault is not None:
            raise self.fault
        return CentreAnswer(status=200, headers={}, body={"accepted_seq": document["seq"]})

    def minutes(self, count: int) -> None:
        """As the link does: whenever it is due, looked at every second."""
        for _ in range(count * 60):
            if self.waiting.clock.now >= self.deliveries.due_at():
                self.deliveries.send(self.post)
            self.waiting.clock.now += 1.0


@pytest.fixture
def desk(waiting: Waiting) -> Desk:
    return Desk(waiting)


def test_a_few_go_at_once_and_the_rest_soon(desk: Desk) -> None:
    desk.waiting.put(*range(1, 13))
    desk.deliveries.send(desk.post)
    assert desk.asked == list(range(1, AT_ONCE + 1))
    desk.minutes(1)
    assert desk.asked == list(range(1, 13))
    assert len(desk.waiting.queue) == 0


@pytest.mark.parametrize(
    "fault",
    [CentreSilent("gone"), CentreProblem(404, "not-found", "an older centre"), AnswerError("no")],
    ids=repr,
)
def test_a_centre_that_takes_none_is_asked_seldom_and_nothing_is_lost(
    fault: Exception, desk: Desk
) -> None:
    desk.waiting.put(1, 2)
    desk.fault = fault
    desk.minutes(180)
    assert set(desk.asked) == {1}
    assert len(desk.asked) <= 12
    desk.fault = None
    desk.minutes(61)
    assert desk.asked[-2:] == [1, 2]


def test_retry_after_is_obeyed(desk: Desk) -> None:
    desk.waiting.put(1)
    desk.fault = CentreSilent("busy", 600.0)
    desk.minutes(10)
    assert desk.asked == [1]


def test_one_that_will_never_be_taken_does_not_hold_up_the_rest(desk: Desk) -> None:
    desk.waiting.put(1, 2)
    desk.fault = CentreProblem(422, "invalid-request", "no")
    desk.deliveries.send(desk.post)
    assert len(desk.waiting.queue) == 0
    desk.fault = None
    desk.waiting.put(3)
    desk.minutes(1)
    assert desk.asked[-1] == 3


def test_the_documented_measurement_is_what_is_sent() -> None:
    documented = json.loads((EXAMPLES / "measurement-request.json").read_text())
    clock = FakeClock()
    clock.now = documented["from_uptime"]
    clock.boot = documented["boot_id"]
    entry, gpu = documented["models"][0], documented["accelerators"][0]
    latency = entry["latency_ms"]

    def seen(share: int, energy: float) -> Scrape:
        names = ("queue_us", "compute_input_us", "compute_infer_us", "compute_output_us")
        counted = ModelCounts(
            succeeded=share * (entry["requests"] - sum(entry["failures"].values())),
            failures={reason: share * n for reason, n in entry["failures"].items()},
            exec_count=share * entry["batch_executions"],
            request_us=share * entry["request_us"],
            latency_ms=Histogram(
                bounds=tuple(latency["bounds"]),
                counts=tuple(share * n for n in latency["counts"]),
                sum_ms=0.0,
            ),
            **{name: share * entry[name] for name in names},
        )
        return Scrape(models={("vad", "2"): counted}, gpus={})

    readings = [
        GpuReading(**{**gpu, "energy_joules": total}) for total in (0.0, gpu["energy_joules"])
    ]
    looks = [seen(0, 0.0), seen(1, 1.0)]
    collector = Collector({"": lambda: looks.pop(0)}, lambda: [readings.pop(0)], clock)
    collector.measure()
    clock.now = documented["to_uptime"]
    (measured,) = collector.measure()
    assert {**measured, "age_seconds": 0.25, "dropped": 0} == documented
