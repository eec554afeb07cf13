"""One site of the demo: a real Triton and a real agent, as processes on this machine.

Knows how they are started and ended; not what is rolled out to them."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from controlplane.ops.supervisor import Supervisor
from deploy.errors import CannotGoOn
from deploy.triton.wheel_server import Ports, WheelTriton

JOIN_SECONDS = 60
# Three sites share the disk of a laptop, and their models are small.
RESERVE_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class SiteSpec:
    """A site as the demo's fleet has it."""

    name: str
    tier: str
    region: str
    latitude: float
    longitude: float


FLEET = (
    SiteSpec(name="iowa", tier="hyperscale", region="us-central", latitude=41.26, longitude=-95.86),
    SiteSpec(name="lyon", tier="regional", region="eu-west", latitude=45.76, longitude=4.84),
    SiteSpec(name="osaka-7", tier="edge", region="ap-northeast", latitude=34.69, longitude=135.5),
)


class DemoSite:
    """Start Triton, `join`, then `run_agent` under a supervisor; `stop` ends Triton."""

    def __init__(self, *, spec: SiteSpec, folder: Path, home: Path) -> None:
        self.spec = spec
        self.folder = folder
        self._agent = home / ".venv-agent" / "bin" / "waypost-agent"
        self._config = folder / "agent.toml"
        folder.mkdir(parents=True)
        (folder / "repository").mkdir()
        self.triton = WheelTriton(
            environment=home / ".triton",
            repository=folder / "repository",
            ports=Ports.free(),
            log_file=folder / "triton.log",
            secret_file=folder / "triton-secret",
        )

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.triton.ports.http}"

    @property
    def config(self) -> Path:
        return self._config

    def write_config(self) -> None:
        self._config.write_text(
            f'state_dir = "{self.folder}/state"\n\n'
            "# The demo's versions carry a python wrapper. Whether a version may run code of its\n"
            "# own is for each site to say, here; the control plane cannot.\n"
            "allow_executable = true\n\n"
            "[triton]\n"
            f'repository = "{self.folder}/repository"\n'
            f'grpc_url = "127.0.0.1:{self.triton.ports.grpc}"\n'
            f'http_url = "{self.http_url}"\n'
            f'metrics_url = "http://127.0.0.1:{self.triton.ports.metrics}/metrics"\n'
            f'secret_file = "{self.folder}/triton-secret"\n\n'
            "[limits]\n"
            f"reserve_bytes = {RESERVE_BYTES}\n"
        )

    def join(self, url: str, token: str) -> None:
        """Binds the agent to its site. Raises `CannotGoOn` with what the agent said."""
        self.write_config()
        done = subprocess.run(
            [str(self._agent), "join", url, "--token", token, "--config", str(self._config)],
            capture_output=True,
            text=True,
            timeout=JOIN_SECONDS,
            check=False,
        )
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise CannotGoOn(f"the agent of {self.spec.name} could not join: {said}", "see above")

    def agent_command(self) -> list[str]:
        return [str(self._agent), "run", "--config", str(self._config)]

    def run_agent(self, supervisor: Supervisor, env: dict[str, str]) -> None:
        supervisor.add(f"agent-{self.spec.name}", self.agent_command(), env)

    def stop(self) -> None:
        self.triton.stop()
