"""The doctor at a real Triton: a healthy site, and the faults that only a server can show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.triton import wheel_server
from fake_centre import Handler
from real_site import Site
from versions import make_version
from waypost_agent.cli import main
from waypost_agent.triton_flags import TritonSettings, triton_command

pytestmark = [pytest.mark.triton, pytest.mark.timeout(120)]


def lives(handler: Handler) -> bool:
    handler.send_json(200, {"status": "ok"})
    return True


def doctor(site: Site, capfd: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capfd.readouterr()
    status = main(["doctor", "--output", "json", "--config", str(site.config_path)])
    document = json.loads(capfd.readouterr().out)
    return status, {check["name"]: check for check in document["checks"]}


def test_a_site_that_serves_is_healthy_but_for_its_old_triton(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Site(tmp_path) as site:
        site.centre.sabotage[""] = lives
        with site.agent():
            wished = site.centre.publish(make_version("1"))
            site.centre.wait_for_phase("succeeded", wished)
            status, checks = doctor(site, capfd)
        wrong = {name: check for name, check in checks.items() if check["verdict"] == "fail"}
        assert wrong == {}
        assert status == 0
        # The one that can be had without a container is from before the floor.
        assert checks["triton version"]["verdict"] == "warn"
        for name in (
            "triton control",
            "triton options",
            "triton ports",
            "triton extensions",
            "backends",
            "record of echo",
            "golden requests of echo",
        ):
            assert checks[name]["verdict"] == "ok", checks[name]
        # The agent's session goes on: it was asked nothing that would end it.
        assert len(site.centre.sessions) == 1

        site.config_path.write_text(site.config_path.read_text().replace("secret_file", "#"))
        status, checks = doctor(site, capfd)
        assert status == 1
        assert "restricted" in checks["triton"]["seen"]
        assert "secret_file" in checks["triton"]["cure"]


def test_the_status_warns_of_an_old_triton(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Site(tmp_path) as site:
        capfd.readouterr()
        assert main(["status", "--config", str(site.config_path)]) == 0
        assert "warning: Triton 2.51" in capfd.readouterr().out
        assert main(["status", "--output", "json", "--config", str(site.config_path)]) == 0
        document = json.loads(capfd.readouterr().out)
    assert "model_repository" in document["servers"][0]["triton"]["extensions"]
    assert document["host"]["disk_total_bytes"] > 0


def test_a_triton_that_decides_by_itself_and_listens_everywhere_is_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def started_wrongly(settings: TritonSettings) -> list[str]:
        wrong = {
            "--model-control-mode=explicit": "--model-control-mode=none",
            f"--grpc-address={settings.address}": "--grpc-address=0.0.0.0",
        }
        command = [wrong.get(word, word) for word in triton_command(settings)]
        return [word for word in command if not word.startswith("--http-restricted-api")]

    monkeypatch.setattr(wheel_server, "triton_command", started_wrongly)
    with Site(tmp_path) as site:
        status, checks = doctor(site, capfd)
    assert status == 1
    failed = {name for name, check in checks.items() if check["verdict"] == "fail"}
    assert {"triton control", "triton options", "triton ports"} <= failed
    assert "by itself" in checks["triton control"]["seen"]
    for option in ("--model-control-mode", "--grpc-address", "--http-restricted-api"):
        assert option in checks["triton options"]["cure"]
