"""docker-compose.yml keeps its promises. Images are not built here: no engine is at hand; what can
be checked without one is checked, and by docker compose itself where that is installed."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.compose_file import (
    ROOT,
    compose_text,
    listed_variables,
    referenced_variables,
    services,
)

ALWAYS = {
    "migrate",
    "web",
    "worker",
    "courier",
    "importer",
    "packer",
    "beat",
    "database",
    "broker",
}
GPU = {"site", "triton", "agent"}
DOCKER = Path("deploy/docker")
MAIN_FILE, SITE_FILE = "docker-compose.yml", "deploy/site-gpu.compose.yml"


@pytest.fixture
def docker_compose() -> list[str]:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("docker is not installed; the other tests check the file's structure")
    found = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("docker has no compose plugin; the other tests check the file's structure")
    return [docker, "compose", "--project-directory", str(ROOT)]


def _environment(**given: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | given


def _dummies() -> dict[str, str]:
    return dict.fromkeys(_required(), "https://waypost.example")


def _required() -> list[str]:
    return re.findall(r"\$\{([A-Z_]+):\?", compose_text())


@pytest.mark.parametrize("name", [MAIN_FILE, SITE_FILE])
def test_docker_compose_accepts_the_file(docker_compose: list[str], name: str) -> None:
    done = subprocess.run(
        [*docker_compose, "-f", str(ROOT / name), "--profile", "gpu", "config", "-q"],
        env=_environment(**_dummies()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_services_are_those_of_production_and_a_site_behind_the_gpu_profile() -> None:
    found = services()
    assert set(found) == ALWAYS | GPU
    assert {name for name, service in found.items() if service.get("profiles") == ["gpu"]} == GPU
    assert not any("profiles" in found[name] for name in ALWAYS)


def test_no_secret_has_a_default_and_its_absence_is_explained() -> None:
    secrets = {
        "WAYPOST_SECRET_KEY",
        "WAYPOST_PUBLIC_URL",
        "WAYPOST_POSTGRES_PASSWORD",
        "WAYPOST_VALKEY_PASSWORD",
    }
    assert set(_required()) == secrets
    for name in secrets:
        uses = re.findall(rf"\$\{{{name}(.*?)\}}", compose_text())
        assert uses
        assert all(use.startswith(":?") and len(use) > 20 for use in uses), (name, uses)


def test_every_variable_of_the_file_is_listed_in_the_example() -> None:
    assert referenced_variables() <= set(listed_variables())


def test_a_default_in_the_file_is_the_default_in_the_example() -> None:
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", compose_text()))
    # Behind compose there is always a proxy; a control plane on its own has none.
    del defaults["WAYPOST_BEHIND_TLS_PROXY"]
    listed = listed_variables()
    assert defaults == {name: listed[name] for name in defaults}


@pytest.mark.parametrize("name", sorted(ALWAYS | GPU))
def test_a_service_is_hardened(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert service.get("pid") is None
    assert service.get("ipc") is None
    assert service.get("network_mode", "service:site") == "service:site"
    assert "docker.sock" not in yaml.safe_dump(service)


@pytest.mark.parametrize("name", sorted(ALWAYS | GPU))
def test_a_service_comes_back_by_itself(name: str) -> None:
    expected = "on-failure:3" if name == "migrate" else "unless-stopped"
    assert services()[name]["restart"] == expected


@pytest.mark.parametrize("name", sorted((ALWAYS | GPU) - {"migrate"}))
def test_a_service_that_stays_says_whether_it_is_well(name: str) -> None:
    check = services()[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries"} <= set(check)


@pytest.mark.parametrize("name", sorted(ALWAYS | GPU))
def test_an_image_is_pinned(name: str) -> None:
    image, _, tag = services()[name]["image"].rpartition(":")
    assert image
    assert re.match(r"\d+\.\d+", tag), f"{name} runs {tag}"


def test_services_start_after_what_they_need() -> None:
    found = services()
    needs = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in found.items()
    }
    assert needs["migrate"] == {"database": "service_healthy"}
    for name in ("web", "worker", "courier", "importer", "packer", "beat"):
        assert needs[name]["migrate"] == "service_completed_successfully"
    for name in ("worker", "courier", "importer", "packer", "beat"):
        assert needs[name]["broker"] == "service_healthy"
    assert "broker" not in needs["web"], "the broker is a doorbell; pages must do without it"
    healthy = {
        other for need in needs.values() for other, how in need.items() if how == "service_healthy"
    }
    assert all("healthcheck" in found[name] for name in healthy)


def test_only_the_web_process_is_published_and_on_loopback_by_default() -> None:
    published = {
        name: service["ports"] for name, service in services().items() if "ports" in service
    }
    assert published == {"web": ["${WAYPOST_HOST:-127.0.0.1}:${WAYPOST_PORT:-8000}:8000"]}


def test_database_and_broker_are_reached_by_the_control_plane_alone() -> None:
    document = yaml.safe_load(compose_text())
    assert document["networks"]["backend"] == {"internal": True}
    for name in ("database", "broker"):
        assert document["services"][name]["networks"] == ["backend"]
    assert "backend" not in document["services"]["site"]["networks"]


def test_the_pool_is_for_web_processes_alone() -> None:
    with_pool = {
        name
        for name, service in services().items()
        if "WAYPOST_DATABASE_POOL" in service.get("environment", {})
    }
    assert with_pool == {"web"}


def test_the_broker_keeps_messages_and_never_drops_one_unseen() -> None:
    command = " ".join(services()["broker"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_the_repository_is_read_only_to_triton_and_the_agent_shares_its_loopback() -> None:
    found = services()
    mounts = [mount for mount in found["triton"]["volumes"] if isinstance(mount, dict)]
    assert [(m["source"], m["target"], m["read_only"]) for m in mounts] == [
        ("site", "/models", True)
    ]
    assert all(m.endswith(":ro") for m in found["triton"]["volumes"] if isinstance(m, str))
    assert "site:/srv/waypost" in found["agent"]["volumes"]
    assert found["triton"]["network_mode"] == found["agent"]["network_mode"] == "service:site"
    devices = found["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["driver"] == "nvidia"
    assert "gpu" in devices[0]["capabilities"]
    assert "deploy" not in found["agent"]


def test_triton_is_started_with_the_agents_own_list_of_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "agents" / "src"))
    flags: Any = importlib.import_module("waypost_agent.triton_flags")
    settings = flags.TritonSettings(
        binary=Path("tritonserver"),
        repository=Path("/models"),
        http_port=8000,
        grpc_port=8001,
        metrics_port=8002,
        secret="sixteen-letters-or-more",
    )
    wanted = flags.triton_command(settings)[1:]
    script = (ROOT / DOCKER / "triton.sh").read_text()
    fence = re.search(r'^fence="(.*):(x-[a-z-]+)=\$secret"$', script, re.MULTILINE)
    assert fence
    written = [
        option.replace("$fence", f"{fence[1]}:{fence[2]}={settings.secret}")
        for option in re.findall(r'^  "?(--[^ "\\\n]+)', script, re.MULTILINE)
    ]
    assert sorted(written) == sorted(wanted)


def test_the_agents_configuration_names_the_folders_that_are_mounted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "agents" / "src"))
    configuration: Any = importlib.import_module("waypost_agent.config")
    config = configuration.load_config(ROOT / DOCKER / "agent.toml")
    volumes = dict(mount.split(":")[:2] for mount in services()["agent"]["volumes"])
    # One volume for both: a version arrives in the repository by one rename.
    (server,) = config.servers
    assert config.state_dir.parent == server.triton.repository.parent == Path(volumes["site"])
    assert server.triton.secret_file.parent == Path(volumes["site-run"])
    subpath = services()["triton"]["volumes"][0]["volume"]["subpath"]
    assert subpath == server.triton.repository.name


def test_a_site_on_a_host_of_its_own_is_the_same_site_without_the_control_plane() -> None:
    here, alone = services(), services(SITE_FILE)
    assert set(alone) == GPU
    for name in GPU:
        theirs = {key: value for key, value in here[name].items() if key != "profiles"}
        theirs.pop("networks", None)  # it has the file's own default network
        text = yaml.safe_dump(theirs, sort_keys=True)
        moved = text.replace("context: .\n", "context: ..\n").replace("./deploy/docker", "./docker")
        assert moved == yaml.safe_dump(alone[name], sort_keys=True)
    for context in {alone[name]["build"]["context"] for name in ("site", "agent")}:
        assert (ROOT / SITE_FILE).parent.joinpath(context).resolve() == ROOT
    (script,) = (
        mount.split(":")[0]
        for mount in alone["triton"]["volumes"]
        if isinstance(mount, str) and mount.startswith("./")
    )
    assert (ROOT / SITE_FILE).parent.joinpath(script).is_file()
    # Nothing of the control plane's has to be set on such a host.
    assert re.findall(r"\$\{([A-Z_]+):\?", compose_text(SITE_FILE)) == []
    volumes = [yaml.safe_load(compose_text(name))["volumes"] for name in (MAIN_FILE, SITE_FILE)]
    assert {name: volumes[0][name] for name in ("site", "site-run")} == volumes[1]


def test_a_site_is_well_when_all_its_tritons_live() -> None:
    (check,) = {
        services(name)["agent"]["healthcheck"]["test"][1] for name in (MAIN_FILE, SITE_FILE)
    }
    judge = check.partition(" | ")[2].replace("python ", f"{sys.executable} ", 1)
    for lives, status in (((True,), 0), ((True, True), 0), ((True, False), 1)):
        said = json.dumps({"servers": [{"triton": {"live": each}} for each in lives]})
        done = subprocess.run(["sh", "-c", judge], input=said, text=True, check=False)
        assert done.returncode == status


def test_every_build_finds_its_dockerfile_and_what_it_copies() -> None:
    builds = [service["build"] for service in services().values() if "build" in service]
    assert {build["dockerfile"] for build in builds} == {
        str(DOCKER / "Dockerfile"),
        str(DOCKER / "agent.Dockerfile"),
    }
    for build in builds:
        assert build["context"] == "."
        text = (ROOT / build["dockerfile"]).read_text()
        copies = re.findall(r"^COPY (?!--from)(\S+) \S+$", text, re.MULTILINE)
        assert copies
        for source in copies:
            assert (ROOT / source).exists(), f"{build['dockerfile']} copies {source}"
            assert _is_sent(source), f".dockerignore leaves out {source}"
        assert re.search(r"^USER (?!root)", text, re.MULTILINE)
        assert "--require-hashes" in text


def _is_sent(source: str) -> bool:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    return any(source == name or source.startswith(f"{name}/") for name in kept)


def test_the_build_context_leaves_out_secrets_and_data() -> None:
    assert not any(
        _is_sent(name) for name in (".env", "data", ".git", ".venv", "docker-compose.yml")
    )


@pytest.mark.parametrize(
    ("image_lock", "tested_lock", "project"),
    [
        ("requirements.lock", "requirements.lock", "pyproject.toml"),
        ("agent-requirements.lock", "agents/requirements.lock", "agents/pyproject.toml"),
    ],
)
def test_an_image_holds_what_was_tested_and_no_tools(
    image_lock: str, tested_lock: str, project: str
) -> None:
    image = _pins(ROOT / DOCKER / image_lock)
    tested = _pins(ROOT / tested_lock)
    assert image
    assert image <= tested, (
        f"not tested: {sorted(image - tested)}; renew with deploy/docker/lock.py"
    )
    document = tomllib.loads((ROOT / project).read_text())["project"]
    names = {name for name, _ in image}
    needed = {_name(text) for text in document["dependencies"]}
    assert needed <= names
    extras = {_name(text) for group in document["optional-dependencies"].values() for text in group}
    assert not names & (extras - needed - {"pyyaml"})  # which drf-spectacular needs as well


def _pins(lock: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


@pytest.mark.parametrize("script", ["triton.sh", "site.sh"])
def test_a_script_is_valid_shell(script: str) -> None:
    done = subprocess.run(
        ["sh", "-n", str(ROOT / DOCKER / script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_triton_is_told_to_load_what_the_agent_proved_and_no_candidate(tmp_path: Path) -> None:
    """The script itself, its fixed folders moved, and a tritonserver that prints its options."""
    models, run, programs = tmp_path / "models", tmp_path / "run", tmp_path / "bin"
    for name in ("vad", "vad--candidate", "other"):
        (models / name).mkdir(parents=True)
    for name in ("vad", "vad--candidate"):
        (models / name / "config.pbtxt").write_text("")
    run.mkdir()
    (run / "triton-secret").write_text("0123456789abcdef")
    programs.mkdir()
    fake = programs / "tritonserver"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    text = (ROOT / DOCKER / "triton.sh").read_text()
    script = tmp_path / "triton.sh"
    script.write_text(text.replace("/run/waypost", str(run)).replace("/models", str(models)))
    done = subprocess.run(
        ["sh", str(script)],
        env={"PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    options = done.stdout.splitlines()
    assert [option for option in options if option.startswith("--load-model=")] == [
        "--load-model=vad"
    ]
    assert any(option.endswith("x-waypost-triton=0123456789abcdef") for option in options)
