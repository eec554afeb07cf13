"""Each check judges facts alone: a healthy site passes all, each fault is found with its cure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from waypost_agent.config import Config, ServerConfig, TritonConfig
from waypost_agent.doctor import FAIL, NOT_APPLICABLE, OK, WARN, check_all, check_document
from waypost_agent.doctor import check_lines as lines_of
from waypost_agent.doctor.facts import (
    CentreFacts,
    Check,
    Facts,
    FolderFacts,
    HostFacts,
    IdentityFacts,
    JournalFacts,
    MirrorFacts,
    ModelFacts,
    ServerFacts,
    SharingFacts,
    TrustFacts,
)
from waypost_agent.download_config import DownloadConfig, MirrorConfig
from waypost_agent.triton_flags import GpuLoadLimit, TritonSettings, triton_command
from waypost_agent.trust_config import TrustConfig
from waypost_agent.windows import parse_windows

AGENT, TRITON = 900, 1000
SECRET = "the-secret-of-this-boot"
COMMAND = tuple(
    triton_command(
        TritonSettings(
            binary=Path("/opt/tritonserver/bin/tritonserver"),
            repository=Path("/srv/models"),
            http_port=8000,
            grpc_port=8001,
            metrics_port=8002,
            secret=SECRET,
            gpu_load_limits=(GpuLoadLimit(device=0, fraction=0.5),),
        )
    )
)


def folder(path: str, **facts: Any) -> FolderFacts:
    usual = {"exists": True, "is_folder": True, "uid": AGENT, "gid": AGENT, "mode": 0o755}
    usual |= {"device": 5, "mount": "/srv", "writable": True}
    return FolderFacts(path=Path(path), **{**usual, **facts})


SERVER = ServerConfig(
    state_dir=Path("/srv/state"),
    triton=TritonConfig(
        repository=Path("/srv/models"),
        user="triton-server",
        secret_file=Path("/run/triton/secret"),
    ),
)
HEALTHY = Facts(
    config_path=Path("/etc/waypost/agent.toml"),
    config=Config(
        state_dir=Path("/srv/state"),
        servers=(SERVER,),
        trust=TrustConfig(keys=(Path("/etc/waypost/release.pem"),), unsigned="refused"),
        download=DownloadConfig(
            mirrors=("https://10.0.0.5:8443",),
            windows=parse_windows([{"from": "22:00", "to": "06:00"}]),
        ),
        mirror=MirrorConfig(secret_file=Path("/etc/waypost/mirror.secret")),
    ),
    of=SERVER,
    trust=TrustFacts(fingerprints=("4f1810b0" * 8,)),
    sharing=SharingFacts(mirrors=(MirrorFacts(url="https://10.0.0.5:8443", status=404),)),
    host=HostFacts(
        python=(3, 11, 7),
        uid=AGENT,
        has_boot_id=True,
        has_boottime=True,
        gpus=2,
        disk_bytes=100_000_000_000,
        free_bytes=50_000_000_000,
        triton_user=(TRITON, frozenset({TRITON})),
        triton_user_known=True,
    ),
    state_dir=folder("/srv/state", mode=0o700),
    home=folder("/srv/state", mode=0o700),
    repository=folder("/srv/models"),
    identity=IdentityFacts(key_mode=0o600, site="edge-1", centre_url="https://waypost.example"),
    centre=CentreFacts(
        url="https://waypost.example",
        addresses=("192.0.2.1",),
        status=200,
        is_centre=True,
        ahead_seconds=0.4,
    ),
    server=ServerFacts(
        live=True,
        version="2.73.0",
        extensions=frozenset({"model_repository", "statistics", "logging"}),
        explicit=True,
        command=COMMAND,
        listeners={8000: frozenset({"127.0.0.1"}), 8001: frozenset({"127.0.0.1", "::1"})},
        open_over_http=False,
        backends=frozenset({"onnxruntime", "python"}),
    ),
    models=(
        ModelFacts(
            model="vad",
            committed="2",
            serving="2",
            config_names="2",
            backend="python",
            golden=True,
            golden_reason="version 2 answers 2 rightly",
        ),
    ),
)


def check_of(facts: Facts, name: str) -> Check:
    (found,) = (check for check in check_all(facts) if check.name == name)
    return found


def test_a_healthy_site_passes_every_check() -> None:
    assert {check.name: check.verdict for check in check_all(HEALTHY) if check.verdict != OK} == {}


def test_what_is_well_has_no_cure_and_what_is_not_has_one() -> None:
    for facts in [HEALTHY, *(change(HEALTHY) for _, _, _, change, _, _ in FAULTS)]:
        for check in check_all(facts):
            assert bool(check.cure) == (check.verdict in (WARN, FAIL)), check
            assert "\n" not in check.cure + check.seen


def test_no_check_tells_the_secret_of_triton() -> None:
    worse = tuple(word.replace("model-repository,", "") for word in COMMAND)
    text = " ".join(lines_of(check_all(server(command=worse)(HEALTHY))))
    assert SECRET not in text
    assert "--http-restricted-api" in text


# One fault each

Change = Callable[[Facts], Facts]


def host(**facts: Any) -> Change:
    return lambda all_facts: replace(all_facts, host=replace(all_facts.host, **facts))


def state(**facts: Any) -> Change:
    return lambda all_facts: replace(all_facts, state_dir=folder("/srv/state", **facts))


def models(**facts: Any) -> Change:
    return lambda all_facts: replace(all_facts, repository=folder("/srv/models", **facts))


def who(**facts: Any) -> Change:
    return lambda all_facts: replace(all_facts, identity=IdentityFacts(**facts))


def centre(**facts: Any) -> Change:
    return lambda every: replace(
        every, centre=CentreFacts(**{"url": "https://waypost.example", **facts})
    )


def server(**facts: Any) -> Change:
    def change(all_facts: Facts) -> Facts:
        assert all_facts.server is not None
        return replace(all_facts, server=replace(all_facts.server, **facts))

    return change


def model(**facts: Any) -> Change:
    return lambda every: replace(every, models=(replace(every.models[0], **facts),))


def settings(**keys: Any) -> Change:
    def change(all_facts: Facts) -> Facts:
        assert all_facts.config is not None
        return replace(all_facts, config=replace(all_facts.config, **keys))

    return change


def without(option: str) -> Change:
    return server(command=tuple(word for word in COMMAND if word.partition("=")[0] != option))


def with_option(option: str, value: str) -> Change:
    words = [w for w in COMMAND if w.partition("=")[0] != option]
    return server(command=(*words, option, value))


def both(first: Change, second: Change) -> Change:
    return lambda facts: second(first(facts))


DEAD = {"live": False, "reason": "Triton does not answer at 127.0.0.1:8001"}
RESTRICTED = "This protocol is restricted, expecting header 'triton-grpc-protocol-x'"


def sharing(**facts: Any) -> Change:
    return lambda all_facts: replace(all_facts, sharing=SharingFacts(**facts))


def neighbour(**facts: Any) -> Change:
    return sharing(mirrors=(MirrorFacts(url="https://10.0.0.5:8443", **facts),))


FAULTS: list[tuple[str, str, str, Change, str, str]] = [
    (
        "no mirror secret",
        "mirrors",
        FAIL,
        sharing(secret_fault="mirror.secret_file: /x"),
        "/x",
        "the same secret",
    ),
    ("another mirror secret", "mirrors", FAIL, neighbour(status=401), "does not take", "same"),
    ("a silent mirror", "mirrors", WARN, neighbour(fault="timed out"), "timed out", "listen"),
    ("no mirror at all", "mirrors", WARN, neighbour(status=200), "answers 200", "control plane"),
    (
        "secret not there",
        "triton secret",
        FAIL,
        lambda facts: replace(facts, secret_fault="triton.secret_file: /run/x cannot be read"),
        "/run/x",
        "readable by the agent's user",
    ),
    ("old python", "python", FAIL, host(python=(3, 10, 1)), "3.10.1", "3.11"),
    ("no boot time", "boot clock", FAIL, host(has_boottime=False), "no lease", "Linux"),
    ("no boot id", "boot clock", WARN, host(has_boot_id=False), "boot_id", "/proc"),
    ("no state folder", "state folder", FAIL, state(exists=False), "not exist", "install -d"),
    ("a file instead", "state folder", FAIL, state(is_folder=False), "not a folder", "state_dir"),
    (
        "closed state folder",
        "state folder",
        FAIL,
        state(writable=False, uid=7),
        "belongs to user 7 and cannot be written by user 900",
        "chown",
    ),
    ("open state folder", "state folder", FAIL, state(mode=0o775), "others", "chmod 700"),
    (
        "records of one server where there are several",
        "state folder",
        FAIL,
        lambda facts: replace(facts, left_behind="/srv/state holds the records of the one server"),
        "the records of the one server",
        "/srv/state/servers/NAME",
    ),
    ("as root", "state folder", WARN, host(uid=0), "this is user 0", "as user 900"),
    ("no repository", "model repository", FAIL, models(exists=False), "not a folder", "make it"),
    ("closed", "model repository", FAIL, models(writable=False), "cannot be written", "belong"),
    ("two disks", "one file system", FAIL, models(device=6), "two file systems", "move state_dir"),
    (
        "two mounts of one disk",
        "one file system",
        FAIL,
        models(mount="/srv/models"),
        "is mounted at /srv, /srv/models at /srv/models",
        "below one mount",
    ),
    (
        "Triton owns the models",
        "repository closed to Triton",
        FAIL,
        models(uid=TRITON),
        "can be written by Triton's user",
        "chmod 755",
    ),
    (
        "Triton's group may write",
        "repository closed to Triton",
        FAIL,
        models(gid=TRITON, mode=0o775),
        "can be written",
        "chmod 755",
    ),
    (
        "everybody may write",
        "repository closed to Triton",
        FAIL,
        models(mode=0o757),
        "can be written",
        "chmod 755",
    ),
    (
        "Triton is root",
        "repository closed to Triton",
        WARN,
        host(triton_user=(0, frozenset({0}))),
        "as root",
        "user of its own",
    ),
    (
        "nobody by that name",
        "repository closed to Triton",
        WARN,
        host(triton_user=None, triton_user_known=False),
        "'triton-server' is not known",
        "by a number",
    ),
    ("full disk", "disk", FAIL, host(free_bytes=200 << 20), "no version can", "limits.reserve"),
    ("little room", "disk", WARN, host(free_bytes=10_900_000_000), "10.0 GB of them", "make room"),
    ("not joined", "identity", FAIL, who(), "not joined", "waypost-agent join"),
    ("damaged", "identity", FAIL, who(fault="membership.json: x"), "membership", "join"),
    (
        "open key",
        "identity",
        FAIL,
        who(key_mode=0o640, site="edge-1"),
        "mode 640",
        "chmod 600 /srv/state/agent.key",
    ),
    (
        "no GPU where one must be",
        "gpu",
        FAIL,
        both(host(gpus=0), settings(gpu_required=True)),
        "none visible",
        "nvidia-smi",
    ),
    (
        "no driver where a GPU must be",
        "gpu",
        FAIL,
        both(host(gpus=None), settings(gpu_required=True)),
        "nvidia-ml-py is missing",
        "pip install nvidia-ml-py",
    ),
    ("no such name", "centre name", FAIL, centre(name_fault="unknown"), "not found", "DNS"),
    (
        "certificate",
        "centre",
        FAIL,
        centre(tls_fault=True, fault="self-signed"),
        "self-signed",
        "ca_file",
    ),
    ("no answer", "centre", FAIL, centre(fault="timed out"), "timed out", "firewall"),
    ("502", "centre", FAIL, centre(status=502), "answers 502", "centre_url"),
    ("portal", "centre", FAIL, centre(status=200), "not a control plane", "captive portal"),
    (
        "clock two years behind",
        "clock",
        WARN,
        centre(status=200, is_centre=True, ahead_seconds=63_072_000.0),
        "63072000 s behind",
        "set-ntp",
    ),
    (
        "clock ahead",
        "clock",
        WARN,
        centre(status=200, is_centre=True, ahead_seconds=-61.0),
        "61 s ahead of",
        "set-ntp",
    ),
    ("dead", "triton", FAIL, server(**DEAD), "does not answer", "start Triton"),
    ("secret", "triton", FAIL, server(live=False, reason=RESTRICTED), "secret", "secret_file"),
    ("old", "triton version", WARN, server(version="2.69.1"), "critical faults", "26.06"),
    ("strange", "triton version", WARN, server(version="nightly"), "'nightly'", "26.06"),
    ("polling", "triton control", FAIL, server(explicit=False), "by itself", "mode=explicit"),
    (
        "control refused",
        "triton control",
        FAIL,
        server(explicit=None, control_reason=RESTRICTED),
        "restricted",
        "secret_file",
    ),
    (
        "control open to users",
        "triton control",
        FAIL,
        server(open_over_http=True),
        "may load and unload",
        "--http-restricted-api=model-repository,",
    ),
    (
        "other repository",
        "triton options",
        FAIL,
        with_option("--model-repository", "/models"),
        "serves /models",
        "name one folder",
    ),
    (
        "gRPC open to all, by option",
        "triton options",
        FAIL,
        with_option("--grpc-address", "0.0.0.0"),
        "--grpc-address=0.0.0.0",
        "--grpc-address=127.0.0.1",
    ),
    (
        "no restriction",
        "triton options",
        FAIL,
        without("--grpc-restricted-protocol"),
        "--grpc-restricted-protocol is not given",
        "--grpc-restricted-protocol=",
    ),
    (
        "completing configurations",
        "triton options",
        WARN,
        without("--disable-auto-complete-config"),
        "--disable-auto-complete-config is not given",
        "start Triton with --disable-auto-complete-config",
    ),
    (
        "strict readiness",
        "triton options",
        WARN,
        with_option("--strict-readiness", "true"),
        "--strict-readiness=true",
        "--strict-readiness=false",
    ),
    (
        "gRPC open to all",
        "triton ports",
        FAIL,
        server(listeners={8001: frozenset({"0.0.0.0"})}),
        "model control among them: 8001 on 0.0.0.0",
        "--grpc-address",
    ),
    (
        "HTTP open to all",
        "triton ports",
        WARN,
        server(listeners={8000: frozenset({"::"}), 8001: frozenset({"127.0.0.1"})}),
        "8000 on ::",
        "proxy",
    ),
    (
        "no model control",
        "triton extensions",
        FAIL,
        server(extensions=frozenset({"statistics"})),
        "model_repository",
        "NVIDIA's container",
    ),
    (
        "no statistics",
        "triton extensions",
        WARN,
        server(extensions=frozenset({"model_repository"})),
        "statistics",
        "NVIDIA's container",
    ),
    (
        "backend missing",
        "backends",
        FAIL,
        both(model(backend="tensorrt", serving=None), server()),
        "tensorrt is not in",
        "install it",
    ),
    (
        "journal unreadable",
        "journal",
        FAIL,
        lambda facts: replace(facts, journal=JournalFacts(unreadable=("vad.json",))),
        "vad.json",
        "restart the agent",
    ),
    (
        "journal was damaged",
        "journal",
        WARN,
        lambda facts: replace(facts, journal=JournalFacts(set_aside=("vad.json.damaged",))),
        "vad.json.damaged",
        "smartctl",
    ),
    (
        "files lost",
        "record of vad",
        FAIL,
        model(committed_on_disk=False),
        "not complete",
        "fetches them again",
    ),
    ("other config", "record of vad", WARN, model(config_names="1"), "names version 1", "restart"),
    ("other serves", "record of vad", WARN, model(serving="1"), "version 1 serves", "status"),
    (
        "wrong answers",
        "golden requests of vad",
        FAIL,
        model(golden=False, golden_reason="y is 3, expected 2"),
        "y is 3",
        "waypost-agent rollback vad",
    ),
]


@pytest.mark.parametrize(
    ("name", "verdict", "change", "seen", "cure"),
    [fault[1:] for fault in FAULTS],
    ids=[fault[0] for fault in FAULTS],
)
def test_a_fault_is_found_with_its_cure(
    name: str, verdict: str, change: Change, seen: str, cure: str
) -> None:
    check = check_of(change(HEALTHY), name)
    assert check.verdict == verdict, check
    assert seen in check.seen
    assert cure in check.cure


PLAIN = replace(SERVER, triton=TritonConfig(repository=Path("/srv/models")))
NOT_TOLD: list[tuple[str, str, Change]] = [
    ("no configuration", "triton", lambda facts: replace(facts, of=None, server=None)),
    ("no Triton's user", "repository closed to Triton", lambda facts: replace(facts, of=PLAIN)),
    ("no secret asked for", "triton secret", lambda facts: replace(facts, of=PLAIN)),
    ("GPU not asked for", "gpu", host(gpus=None)),
    ("not joined", "centre", lambda facts: replace(facts, centre=None)),
    ("no Date", "clock", centre(status=200, is_centre=True)),
    ("Triton down", "triton version", server(**DEAD)),
    ("another container", "triton options", server(command=None)),
    ("ports not seen", "triton ports", server(listeners=None)),
    ("nothing verified", "record of vad", model(committed=None)),
    ("not replayed", "golden requests of vad", model(golden=None, golden_reason="away")),
    ("backend not known", "backends", model(backend=None)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change"), [case[1:] for case in NOT_TOLD], ids=[case[0] for case in NOT_TOLD]
)
def test_what_cannot_be_told_is_not_called_a_fault(name: str, change: Change) -> None:
    assert check_of(change(HEALTHY), name).verdict == NOT_APPLICABLE


def test_each_server_is_checked_by_itself_and_the_site_once() -> None:
    cpu = replace(SERVER, name="cpu", models=("vad",))
    gpu = replace(SERVER, name="gpu", triton=replace(SERVER.triton, grpc_url="127.0.0.1:9001"))
    config = Config(state_dir=Path("/srv/state"), servers=(cpu, gpu))
    well = replace(HEALTHY, config=config, of=cpu)
    ill = server(**DEAD)(replace(well, of=gpu, models=()))
    checks = check_all(well, ill)
    names = [(check.server, check.name) for check in checks]
    assert len(names) == len(set(names))
    assert [check.server for check in checks if check.name == "identity"] == [""]
    assert [(check.server, check.name) for check in checks if check.verdict == FAIL] == [
        ("gpu", "triton")
    ]
    assert any(line.startswith("fail            gpu: triton: ") for line in lines_of(checks))


def test_a_model_that_serves_where_it_no_longer_belongs_is_found() -> None:
    cpu = replace(SERVER, name="cpu", models=("noise",))
    gpu = replace(SERVER, name="gpu")
    config = Config(state_dir=Path("/srv/state"), servers=(cpu, gpu))
    check = check_of(replace(HEALTHY, config=config, of=cpu), "record of vad")
    assert check.verdict == WARN
    assert "belongs to gpu" in check.seen
    assert "/srv/models/vad" in check.cure
    assert check_of(replace(HEALTHY, config=config, of=gpu), "record of vad").verdict == OK


def test_without_a_readable_configuration_only_that_fails() -> None:
    facts = Facts(
        host=HEALTHY.host, config_path=HEALTHY.config_path, config_fault="state_dir: is missing"
    )
    failed = [check.name for check in check_all(facts) if check.verdict == FAIL]
    assert failed == ["configuration"]


@pytest.mark.parametrize(
    "change",
    [
        with_option("--exit-on-error", "False"),
        without("--allow-client-shm"),
        without("--allow-http"),
        with_option("--grpc-address", "localhost"),
        with_option("--http-port", "9000"),
    ],
)
def test_options_that_mean_the_same_are_no_difference(change: Change) -> None:
    assert check_of(change(HEALTHY), "triton options").verdict == OK


def test_a_backend_that_serves_needs_no_folder_to_be_believed() -> None:
    assert check_of(server(backends=None)(HEALTHY), "backends").verdict == OK
    assert check_of(server(backends=frozenset())(HEALTHY), "backends").verdict == OK


def test_the_document_counts_the_verdicts() -> None:
    document = check_document(check_all(server(version="2.51.0")(HEALTHY)))
    assert json.loads(json.dumps(document)) == document
    assert document["counts"][WARN] == 1
    assert document["counts"][FAIL] == 0
    (warned,) = (check for check in document["checks"] if check["verdict"] == WARN)
    assert set(warned) == {"server", "name", "verdict", "seen", "cure"}


def test_the_lines_show_each_cure_below_its_finding() -> None:
    lines = lines_of(check_all(server(explicit=False)(HEALTHY)))
    (place,) = (n for n, line in enumerate(lines) if "triton control" in line)
    assert lines[place].startswith(FAIL)
    assert lines[place + 1].strip().startswith("-> start Triton with")
    assert lines[-1].endswith("1 failed, 0 with a warning")


def test_the_rules_of_the_site_are_told() -> None:
    assert HEALTHY.config is not None
    assert "are refused" in check_of(HEALTHY, "executable versions").seen
    allowed = replace(HEALTHY, config=replace(HEALTHY.config, allow_executable=True))
    assert "may run code" in check_of(allowed, "executable versions").seen
    assert check_of(HEALTHY, "download window").seen == "open now"
    opens = datetime(2026, 11, 24, 22, 0, tzinfo=UTC)
    closed = check_of(sharing(opens_at=opens)(HEALTHY), "download window")
    assert (closed.verdict, "opens Tue 2026-11-24 22:00 UTC" in closed.seen) == (OK, True)
    plain = replace(HEALTHY, config=replace(HEALTHY.config, download=DownloadConfig()))
    plain = sharing()(plain)
    for name in ("mirrors", "download window"):
        assert check_of(plain, name).verdict == NOT_APPLICABLE
