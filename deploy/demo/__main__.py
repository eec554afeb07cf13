"""The demo: a control plane and three sites on this machine, and a story of three rollouts.

    python -m deploy.demo [--once]

Everything it starts it stops, also on Ctrl-C and on failure. With --once the last line on stdout is
one JSON object that says how it went, and the exit status is 0 only if all of it went well."""

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from controlplane.ops.supervisor import Supervisor
from deploy.demo.models import MODEL_NAME, build_versions
from deploy.demo.site import FLEET, DemoSite
from deploy.demo.traffic import Client, Traffic, expectation
from deploy.errors import CannotGoOn

HOME = Path(__file__).resolve().parents[2]
RUNS = HOME / ".demo" / "runs"
DEFAULT_PORT = 8000
READY_SECONDS = 90.0
ROLLOUT_TIMEOUT = "5m"
SOAK_SECONDS = 3
STORY = (("1", "succeeded"), ("2", "succeeded"), ("3", "rolled_back"))
STAGES = tuple(
    f"{name} tier={tier} soak={SOAK_SECONDS}s"
    for name, tier in (("canary", "edge"), ("regional", "regional"), ("hyperscale", "hyperscale"))
)
# The versions carry a python wrapper, and so are of the executable class: two people besides the
# author look at them, and each site has said in its own configuration that it lets them run.
APPROVERS = ("ana", "bo")
WAIVER = "the demo's Triton comes from PyPI, and the newest there is below the security floor"
STEPS = 8


@dataclass(kw_only=True)
class Outcome:
    """What the story came to; the JSON of the public contract."""

    rollouts: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0
    failed_requests: int = 0
    longest_gap_ms: int = 0
    served: dict[str, dict[str, str]] = field(default_factory=dict)
    error: str | None = None

    def fault(self) -> str | None:
        """The first thing that did not go as told, or None."""
        wanted = [state for _, state in STORY]
        got = [rollout["state"] for rollout in self.rollouts]
        if self.error:
            return self.error
        if got != wanted:
            return f"the rollouts ended {got}, not {wanted}"
        if self.failed_requests:
            return f"{self.failed_requests} of {self.requests} requests failed"
        if self.served != {site.name: {MODEL_NAME: "2"} for site in FLEET}:
            return f"not every site serves version 2: {self.served}"
        return None

    def document(self) -> dict[str, Any]:
        fault = self.fault()
        return {
            "ok": fault is None,
            "sites": len(FLEET),
            "rollouts": self.rollouts,
            "requests": self.requests,
            "failed_requests": self.failed_requests,
            "longest_gap_ms": self.longest_gap_ms,
            "served": self.served,
            "error": fault,
        }


class Demo:
    """One run, in a folder of its own."""

    def __init__(self, *, port: int) -> None:
        self.folder = RUNS / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.password = secrets.token_urlsafe(9)
        self.outcome = Outcome()
        self.supervisor = Supervisor(say=say, log_dir=self.folder / "logs")
        self.sites: list[DemoSite] = []
        self.traffic: Traffic | None = None
        self._step = 0
        self._approvers: dict[str, str] = {}  # token by person
        data = self.folder / "data"
        self.env = {name: value for name, value in os.environ.items() if name != "BROKER_URL"} | {
            "WAYPOST_DATA_DIR": str(data),
            "DATABASE_URL": f"sqlite:///{data}/waypost.sqlite3",
            "WAYPOST_PUBLIC_URL": self.url,
            "WAYPOST_ADMIN_PASSWORD": self.password,
            # A demo is watched: look often. The defaults are for fleets.
            "WAYPOST_TICK_SECONDS": "1",
            "WAYPOST_POLL_SECONDS": "1",
            "WAYPOST_STALE_SECONDS": "10",
        }

    def play(self) -> None:
        """The whole story. What went wrong is in `outcome`, or raised."""
        self._say("models: two real versions and a broken one")
        versions = build_versions(HOME / ".demo" / "models", home=HOME)
        self._start_control_plane()
        self._start_sites()
        expected = expectation({number: versions[number] for number in ("1", "2")})
        urls = {site.spec.name: site.http_url for site in self.sites}
        for number, _ in STORY:
            if number == "2":
                # Counted over the second and the third rollout.
                self.traffic = Traffic(urls=urls, model=MODEL_NAME, expected=expected)
                self.traffic.start()
            self._roll_out(number, versions[number])
        assert self.traffic is not None
        self._say("checking what every site serves")
        self._end_traffic()
        for site in self.sites:
            client = Client(url=site.http_url, model=MODEL_NAME, expected=expected)
            self.outcome.served[site.spec.name] = {MODEL_NAME: client.ask()}
            client.close()

    def stop(self) -> None:
        """Ends all that was started, in the order that makes the least noise."""
        if self.traffic:
            self.traffic.stop()
        self.supervisor.stop()
        for site in self.sites:
            site.stop()

    def _say(self, text: str) -> None:
        self._step += 1
        say(f"[{self._step}/{STEPS}] {text}")

    def _end_traffic(self) -> None:
        assert self.traffic is not None
        self.traffic.stop()
        self.outcome.requests = self.traffic.requests
        self.outcome.failed_requests = self.traffic.failed
        self.outcome.longest_gap_ms = self.traffic.longest_gap_ms
        gaps = ", ".join(
            f"{site} {1000 * tally.longest_gap_seconds:.0f} ms"
            for site, tally in self.traffic.tallies.items()
        )
        say(f"      {self.traffic.requests} requests; longest time without an answer: {gaps}")
        for site, fault in self.traffic.faults().items():
            say(f"      first failed request at {site}: {fault}")

    def _start_control_plane(self) -> None:
        self._say(f"control plane: web, worker, beat and broker at {self.url}")
        up = [sys.executable, "manage.py", "up", "--port", str(self.port)]
        self.supervisor.add("control-plane", up, self.env)
        self._wait_for(f"{self.url}/healthz/engine")
        self.env["WAYPOST_URL"] = self.url
        self.env["WAYPOST_TOKEN"] = self._token("demo", "admin", "push", "rollout", "fleet")
        for person in APPROVERS:
            self._manage("create_person", person)
            self._approvers[person] = self._token(f"demo-{person}", person, "approve")

    def _start_sites(self) -> None:
        self._say(f"sites: {len(FLEET)}, each a Triton and an agent")
        for spec in FLEET:
            site = DemoSite(spec=spec, folder=self.folder / "sites" / spec.name, home=HOME)
            self.sites.append(site)
            site.triton.start()
        for site in self.sites:
            spec = site.spec
            place = ("--latitude", str(spec.latitude), "--longitude", str(spec.longitude))
            self._waypost(
                "sites", "add", spec.name, "--tier", spec.tier, "--region", spec.region, *place
            )
            token = json.loads(self._waypost("sites", "token", spec.name, "--output", "json"))
            self._waypost("sites", "waive-floor", spec.name, "--reason", WAIVER)
            site.triton.wait_live()
            site.join(self.url, token["token"])
            site.run_agent(self.supervisor, self.env)
            say(
                f"      {spec.name} ({spec.tier}): Triton at {site.http_url}, agent joined; "
                "executable versions allowed, Triton's floor waived"
            )
        for spec in FLEET:
            # Until it has reported nobody knows what it allows, and a plan would leave it out.
            self._wait_for(f"{self.url}/api/v1/sites/{spec.name}/agent", _says_what_it_allows)

    def _roll_out(self, number: str, folder: Path) -> None:
        self._say(f"version {number}: push and roll out, edge canary first")
        pushed = json.loads(
            self._waypost("push", MODEL_NAME, str(folder), "--version", number, "--output", "json")
        )
        digest = pushed["manifest_digest"]
        say(f"      pushed {digest[:19]}…")
        for token in self._approvers.values():
            yes = ("approve", MODEL_NAME, number, "--digest", digest, "--reason", "looked at it")
            self._waypost(*yes, token=token)
        say(f"      it runs code of its own: approved by {' and '.join(self._approvers)}")
        started = time.monotonic()
        stages = [part for stage in STAGES for part in ("--stage", stage)]
        document = json.loads(
            self._waypost(
                "rollout",
                "start",
                MODEL_NAME,
                number,
                *stages,
                "--wait",
                "--timeout",
                ROLLOUT_TIMEOUT,
                "--output",
                "json",
                fine=(0, 2),
            )
        )
        self.outcome.rollouts.append(
            {
                "model": MODEL_NAME,
                "version": number,
                "state": document["state"],
                "seconds": round(time.monotonic() - started, 1),
                "stages": [
                    {"name": stage["name"], "state": stage["state"], "sites": stage["sites"]}
                    for stage in document["stages"]
                ],
            }
        )
        say(f"      {document['state']}: {document['reason']}")

    def _waypost(
        self, *arguments: str, fine: tuple[int, ...] = (0,), token: str | None = None
    ) -> str:
        env = {"WAYPOST_TOKEN": token} if token else {}
        return self._run([str(HOME / ".venv/bin/waypost"), *arguments], fine=fine, env=env)

    def _manage(self, *arguments: str) -> str:
        return self._run([sys.executable, "manage.py", *arguments]).strip()

    def _token(self, name: str, person: str, *scopes: str) -> str:
        asked = [part for scope in scopes for part in ("--scope", scope)]
        return self._manage("create_token", name, "--user", person, *asked)

    def _run(
        self,
        command: list[str],
        *,
        fine: tuple[int, ...] = (0,),
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Its stdout; its stderr is shown as it comes. Raises `CannotGoOn`."""
        child = subprocess.Popen(
            command, cwd=HOME, env={**self.env, **env}, stdout=subprocess.PIPE, text=True
        )
        try:
            stdout, _ = child.communicate()
        except BaseException:
            child.kill()
            child.wait()
            raise
        if child.returncode not in fine:
            shown = " ".join(Path(part).name if part.startswith("/") else part for part in command)
            raise CannotGoOn(
                f"`{shown}` ended with status {child.returncode}", f"see the logs in {self.folder}"
            )
        return stdout

    def _wait_for(self, url: str, is_right: Callable[[bytes], bool] = lambda body: True) -> None:
        token = self.env.get("WAYPOST_TOKEN", "")
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    if answer.status == 200 and is_right(answer.read()):
                        return
            except OSError:
                pass
            time.sleep(0.2)
        raise CannotGoOn(
            f"{url} did not say what was waited for within {READY_SECONDS:.0f} s",
            f"see the logs in {self.folder}",
        )


def _says_what_it_allows(agent: bytes) -> bool:
    return json.loads(agent)["executable_allowed"] is not None


def choose_port() -> int:
    """WAYPOST_PORT if it is given and free, else 8000 if that is free, else any."""
    given = os.environ.get("WAYPOST_PORT")
    for port in [int(given)] if given else [DEFAULT_PORT, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CannotGoOn(f"port {given} is taken", "WAYPOST_PORT=NNNN make demo, with a free one")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def stop_on_signal(number: int, _: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="play the story, stop all, exit")
    once = parser.parse_args().once
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background job ignores SIGINT
        signal.signal(number, stop_on_signal)
    outcome, demo = Outcome(), None
    try:
        demo = Demo(port=choose_port())
        outcome = demo.outcome
        demo.play()
        if not once:
            stay_up(demo)
    except KeyboardInterrupt:
        outcome.error = outcome.error or ("interrupted" if once else None)
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}"
        say(f"error: {error}")
    finally:
        if demo:
            say(f"[{STEPS}/{STEPS}] stopping")
            demo.stop()
            tidy(demo)
    if once:
        print(json.dumps(outcome.document()), flush=True)
    return 0 if outcome.fault() is None else 1


def stay_up(demo: Demo) -> None:
    """Shows where to look, and looks after the processes until Ctrl-C."""
    print(json.dumps(demo.outcome.document()), flush=True)
    print(f"\nThe console: {demo.url}   log in as admin, password {demo.password}", flush=True)
    print("Ctrl-C stops everything.", flush=True)
    demo.supervisor.watch()


def tidy(demo: Demo) -> None:
    """A run that went well leaves nothing; the logs of another are worth reading."""
    if demo.outcome.fault() is None:
        shutil.rmtree(demo.folder, ignore_errors=True)
    else:
        say(f"logs and data of this run: {demo.folder}")


if __name__ == "__main__":
    sys.exit(main())
