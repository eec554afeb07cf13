"""One agent and two real Tritons: each has its models, and neither is the other's trouble."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from deploy.triton.wheel_server import Ports, WheelTriton
from real_site import TRITON_ENVIRONMENT, Site, Users, wait_until
from test_service import free_port
from versions import make_version
from waypost_agent.cli import main

pytestmark = [pytest.mark.triton, pytest.mark.timeout(180)]


class TwoServers(Site):
    """`near` serves what begins with `near-`, `far` with `far-`; anything else belongs to none."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.far_repository = folder / "far"
        self.far_repository.mkdir()
        self.far_ports = Ports.free()
        self.far = WheelTriton(
            environment=TRITON_ENVIRONMENT,
            repository=self.far_repository,
            ports=self.far_ports,
            log_file=folder / "far.log",
            secret_file=folder / "far-secret",
        )
        self.metrics_port = free_port()
        self.config_path.write_text(
            f'state_dir = "{folder}/state"\nmetrics_port = {self.metrics_port}\n'
            "allow_executable = true\n"  # its versions are of the python backend
            "[limits]\nreserve_bytes = 1048576\n"
            "[timeouts]\nobserve_seconds = 0.3\nbusy_poll_seconds = 0.05\n"
            "retry_first_seconds = 0.2\n"
            + _table("near", self.repository, self.ports, self.triton)
            + _table("far", self.far_repository, self.far_ports, self.far)
        )

    def __enter__(self) -> TwoServers:
        self.far.start()
        super().__enter__()
        self.far.wait_live()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.far.kill()
        super().__exit__(kind, error, traceback)

    def ask_far(self, model: str) -> tuple[str, float] | str:
        return self.ask(model, ports=self.far_ports)

    def metrics(self) -> str:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())


def _table(name: str, repository: Path, ports: Ports, triton: WheelTriton) -> str:
    return (
        f'[[servers]]\nname = "{name}"\nmodels = ["{name}-*"]\nrepository = "{repository}"\n'
        f'grpc_url = "127.0.0.1:{ports.grpc}"\nhttp_url = "http://127.0.0.1:{ports.http}"\n'
        f'metrics_url = "http://127.0.0.1:{ports.metrics}/metrics"\n'
        f'secret_file = "{triton.secret_file}"\n'
    )


def publish(site: Site, model: str, number: str) -> int:
    return site.centre.publish(make_version(number, model=model), model=model, previous="1")


def test_one_server_dies_and_comes_back_while_the_other_is_switched_undisturbed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with TwoServers(tmp_path) as site:
        command = ["--config", str(site.config_path)]
        with site.agent():
            for model in ("near-a", "far-a"):
                wished = publish(site, model, "1")
                entry = site.centre.wait_for_phase("succeeded", wished, model=model)
                assert entry["server"] == model.partition("-")[0]
            assert (site.ask("near-a"), site.ask_far("far-a")) == (("1", 1.0), ("1", 1.0))
            assert isinstance(site.ask("far-a"), str)  # each Triton has its own models alone
            assert isinstance(site.ask_far("near-a"), str)
            report = site.centre.reports[-1]
            assert report["triton"]["live"] is True
            inventories = [each["inventory"] for each in site.centre.reports if "inventory" in each]
            servers = {server["name"]: server for server in inventories[-1]["servers"]}
            assert servers["far"]["models"] == ["far-*"]

            with Users(site, "near-a", pause_seconds=0.005) as users:
                site.far.kill()
                switched = publish(site, "near-a", "2")
                site.centre.wait_for_phase("succeeded", switched, model="near-a")
                waiting = site.centre.wait_for_report(
                    lambda report: (
                        next((m for m in report["models"] if m["phase"] == "pending"), None)
                        and report
                    )
                )
                assert waiting["triton"]["live"] is False
                assert waiting["triton"]["http_url"].endswith(f":{site.far_ports.http}")
                told = site.metrics()
                assert 'waypost_agent_triton_live{server="near"} 1' in told
                assert 'waypost_agent_triton_live{server="far"} 0' in told

                site.far.start()
                site.far.wait_live()
                wait_until(lambda: site.ask_far("far-a") == ("1", 1.0), "far-a serves again")
                back = publish(site, "near-a", "1")
                site.centre.wait_for_phase("succeeded", back, model="near-a")
            assert users.failures == []
            assert users.answers == {("1", 1.0), ("2", 2.0)}

            nobodys = publish(site, "noise", "1")
            entry = site.centre.wait_for_phase("failed", nobodys, model="noise")
            assert entry["reason_code"] == "no-server"
            assert "far takes far-*" in entry["reason"]

            _commands_cover_both(site, command, capfd)
        # Nothing of one server lies in the folder of the other.
        kept = {path.name for path in (tmp_path / "state/servers/far/versions").iterdir()}
        assert kept == {"far-a"}


def _commands_cover_both(
    site: TwoServers, config: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    assert main(["status", "--json", *config]) == 0
    servers = _json(capfd)["servers"]
    assert {s["server"]: [m["model"] for m in s["models"]] for s in servers} == {
        "near": ["near-a"],
        "far": ["far-a"],
    }
    assert main(["once", "--dry-run", "--output", "json", *config]) == 0
    plans = {plan["model"]: plan for plan in _json(capfd)["models"]}
    assert {model: plan["server"] for model, plan in plans.items()} == {
        "near-a": "near",
        "far-a": "far",
        "noise": None,
    }
    assert main(["once", "--dry-run", *config]) == 0
    told = capfd.readouterr().out
    assert "server near\n" in told
    assert "noise: no server of this site takes" in told
    main(["doctor", "--output", "json", *config])
    checks = {(check["server"], check["name"]): check for check in _json(capfd)["checks"]}
    assert checks["near", "triton control"]["verdict"] == "ok"
    assert checks["far", "golden requests of far-a"]["verdict"] == "ok"
    assert ("", "identity") in checks

    wished = publish(site, "far-a", "2")
    site.centre.wait_for_phase("succeeded", wished, model="far-a")
    assert main(["rollback", "far-a", "--reason", "users complain", *config]) == 0
    assert site.ask_far("far-a") == ("1", 1.0)
    entry = site.centre.wait_for_phase("failed", wished, model="far-a")
    assert (entry["reason_code"], entry["server"]) == ("rolled-back-locally", "far")
    assert main(["rollback", "noise", *config]) == 1
    assert "no server of this site takes" in capfd.readouterr().err


def _json(capfd: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capfd.readouterr().out)
