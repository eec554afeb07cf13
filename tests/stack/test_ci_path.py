"""The path of a CI job from training to serving, with everything real: MLflow, the control plane
with its importer, an agent, Triton. It takes nothing from the control plane's database.

Version 1 is asked for: a job trains a classifier, records golden requests from a Triton of its own,
logs and registers the folder in MLflow; the CLI links the model, imports the version and waits, two
people approve it, a rollout puts it on the site, and MLflow's version says so in its tags.

Version 2 comes by itself: the job moves an alias in MLflow, whose signed webhook has the importer
look; two people approve, the channel follows the alias, and its stored strategy rolls out.

Version 3 answers wrongly: it is imported and approved like the others, fails its golden requests at
the site, and is rolled back, which its tags say too. The site goes on answering as version 2.

At each step the site's Triton must answer what scikit-learn itself predicts."""

import json
import secrets
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.site import FLEET, DemoSite
from deploy.triton.wheel_server import Ports, WheelTriton
from tests.mlflow.server import MlflowServer, is_there
from tests.stack.conftest import APPROVERS, HOME, Stack, add_site, control_plane, end, let_in
from tests.stack.processes import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.triton]

MODEL = "iris"
SOURCES = Path(__file__).with_name("iris")
HOOK = "/api/v1/registries/mlflow/webhook"
EDGE = next(spec for spec in FLEET if spec.tier == "edge")
STRATEGY = {"name": "our-edge", "stages": [{"name": "edge", "soak_seconds": 1}]}
RIGHT, WRONG = "LABELS_OFF_BY = 0", "LABELS_OFF_BY = 1"
# Of scikit-learn's double precision to ONNX's single one.
CLOSE = 1e-4


class CiJob:
    """What runs in CI: it trains, records, logs and registers; `versions` holds by MLflow's number
    what scikit-learn says of the flowers that the site will be asked about."""

    def __init__(self, *, mlflow: MlflowServer, stack: Stack, folder: Path) -> None:
        self.mlflow, self._stack, self._folder = mlflow, stack, folder
        self.versions: dict[str, dict[str, Any]] = {}

    def train(self, name: str, *, regularisation: float) -> dict[str, Any]:
        """A model as Triton's folder; what scikit-learn says, and where the folder is."""
        folder = self._folder / name / MODEL
        (folder / "1").mkdir(parents=True)
        shutil.copy(SOURCES / "config.pbtxt", folder)
        shutil.copy(SOURCES / "model.py", folder / "1")
        trained = self.mlflow.call(
            "train_iris",
            folder=str(folder / "1"),
            regularisation=regularisation,
            git_commit="0123456789abcdef",
            every=5,
        )
        return {**trained, "folder": folder}

    def record(self, trained: dict[str, Any]) -> None:
        """`golden.json` from a Triton that serves the folder: a reference run."""
        folder: Path = trained["folder"]
        inputs = folder.parent / "inputs.json"
        requests = [
            {"name": f"flowers-{start}", "inputs": [tensor(trained["flowers"][start : start + 4])]}
            for start in (0, 12, 24)
        ]
        inputs.write_text(json.dumps(requests))
        # A copy: Python leaves its compiled cache beside what it ran, which no version may hold.
        served = folder.parent / "reference"
        shutil.copytree(folder, served / MODEL)
        reference = WheelTriton(
            environment=HOME / ".triton",
            repository=served,
            ports=Ports.free(),
            log_file=folder.parent / "reference.log",
            secret_file=folder.parent / "reference-secret",
            load_models=[MODEL],
        )
        with reference:
            url = f"http://127.0.0.1:{reference.ports.http}"
            what = ("--url", url, "--model", MODEL, "--inputs", str(inputs))
            tolerances = (
                "--tolerance",
                "label=exact",
                "--tolerance",
                "probabilities=absolute:1e-4",
            )
            out = ("--out", str(folder / "golden.json"))
            recorded = self._stack.waypost("golden", "record", *what, *out, *tolerances)
        assert recorded["requests"] == len(requests)

    def spoil(self, trained: dict[str, Any], name: str) -> dict[str, Any]:
        """The same model and golden requests with a wrapper that answers wrongly."""
        folder = self._folder / name / MODEL
        shutil.copytree(trained["folder"], folder)
        wrapper = folder / "1" / "model.py"
        text = wrapper.read_text()
        assert text.count(RIGHT) == 1
        wrapper.write_text(text.replace(RIGHT, WRONG))
        return {**trained, "folder": folder}

    def register(self, trained: dict[str, Any]) -> str:
        registered = self.mlflow.call(
            "log_folder", name=MODEL, folder=str(trained["folder"]), run_id=trained["run_id"]
        )
        number = str(registered["version"])
        self.versions[number] = trained
        return number

    def wait_told(self, number: str, **wanted: str) -> None:
        """Until MLflow's tags of the version are these."""
        told = {f"waypost.{key}": value for key, value in wanted.items()}
        tags: dict[str, Any] = {}

        def are_there() -> bool:
            nonlocal tags
            tags = self.mlflow.call("tags", name=MODEL, version=number)
            return {key: tags.get(key) for key in told} == told

        wait_until(are_there, seconds=60, what=f"MLflow is told {told}", end=lambda: str(tags))


@contextmanager
def step(name: str) -> Iterator[None]:
    """Says which step of the story it was, whether it went well or not."""
    began = time.monotonic()
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the step: {name}")
        raise
    print(f"{time.monotonic() - began:5.1f} s  {name}")


def tensor(flowers: list[list[float]]) -> dict[str, Any]:
    data = [value for flower in flowers for value in flower]
    return {"name": "X", "datatype": "FP32", "shape": [len(flowers), 4], "data": data}


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """It starts while the control plane does."""
    if not is_there() or not (HOME / ".triton").is_dir():
        pytest.skip("no real MLflow or no real Triton here: run `make setup`")
    server = MlflowServer(folder=tmp_path_factory.mktemp("mlflow"))
    try:
        server.launch()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, mlflow: MlflowServer) -> Iterator[Stack]:
    """A control plane that knows the MLflow server, looks there by itself once an hour only, and
    has one site with a real Triton."""
    mark = f"WAYPOST_TEST_MARK={secrets.token_hex(8)}"
    stack = control_plane(
        tmp_path_factory.mktemp("ci-path"),
        mark,
        WAYPOST_MLFLOW_URL=mlflow.url,
        WAYPOST_MLFLOW_WEBHOOK_SECRET="only-for-tests",
        WAYPOST_MLFLOW_RECONCILE_SECONDS="3600",
    )
    try:
        let_in(stack, add_site(stack, EDGE))
        yield stack
    finally:
        end(stack, mark)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, mlflow: MlflowServer, stack: Stack) -> CiJob:
    mlflow.wait_ready()
    hook = {"name": "waypost", "url": stack.url + HOOK, "secret": "only-for-tests"}
    mlflow.call("add_webhook", **hook)
    return CiJob(mlflow=mlflow, stack=stack, folder=tmp_path_factory.mktemp("job"))


def test_from_a_training_job_to_a_site_and_back_into_mlflow(stack: Stack, job: CiJob) -> None:
    lead = stack.tokens["lead"]
    site = stack.sites[0]

    with step("version 1: train, record golden requests, log and register in MLflow"):
        first = job.train("first", regularisation=0.05)
        job.record(first)
        assert job.register(first) == "1"
    with step("version 1: link the model, import, wait"):
        follow = ("--mlflow", MODEL, "--alias", "prod=stable")
        stack.waypost("link", MODEL, *follow, token=lead)
        brought = stack.waypost("import", MODEL, "--version", "1", "--wait", "--timeout", "2m")
        assert (brought["state"], brought["version"]) == ("imported", "1"), brought
        version = stack.waypost("version", "show", MODEL, "1")
        assert version["state"] == "validated"
        assert version["lineage"]["mlflow_run"] == first["run_id"]
        assert version["lineage"]["git_commit"] == "0123456789abcdef"
    with step("version 1: two people approve it"):
        approve(stack, "1")
    with step("version 1: roll out, wait; the site answers; MLflow is told"):
        stage = ("--stage", "edge tier=edge soak=1s")
        ended = stack.waypost("rollout", "start", MODEL, "1", *stage, "--wait", "--timeout", "2m")
        assert ended["state"] == "succeeded", ended["reason"]
        assert_served(site, job, "1")
        job.wait_told("1", version="1", state="approved", rollout="succeeded")

    with step("from now on by itself: the channel stands at version 1 and gets a strategy"):
        strategy = stack.folder / "strategy.json"
        strategy.write_text(json.dumps(STRATEGY))
        stack.waypost("strategy", "create", str(strategy))
        move = ("channel", "move", MODEL, "stable", "1", "--reason", "it serves well")
        stack.waypost(*move, token=lead)
        by = ("--strategy", STRATEGY["name"])
        assert stack.waypost(*move, *by, token=lead)["outcome"].endswith("nothing was started")
    with step("version 2: train, record, register; the alias moves, the webhook brings it in"):
        second = job.train("second", regularisation=5.0)
        job.record(second)
        assert job.register(second) == "2"
        job.mlflow.call("set_alias", name=MODEL, alias="prod", version="2")
        wait_for_import(stack, "2")
    with step("version 2: two people approve it; the channel follows, its strategy rolls out"):
        approve(stack, "2")
        job.wait_told("2", version="2", state="approved", rollout="succeeded")
        (channel,) = stack.waypost("channel", "list", MODEL)
        assert (channel["version"], channel["person"]) == ("2", "lead")
        assert STRATEGY["name"] in channel["outcome"]
        assert_served(site, job, "2")

    with step("version 3: answers wrongly, but is imported and approved"):
        assert job.register(job.spoil(second, "third")) == "3"
        stack.waypost("import", MODEL, "--version", "3", "--wait", "--timeout", "2m")
        approve(stack, "3")
    with step("version 3: rolled back; the site answers as before; MLflow is told"):
        ended = stack.waypost("rollout", "start", MODEL, "3", *stage, "--wait", "--timeout", "2m")
        assert ended["state"] == "rolled_back"
        assert_served(site, job, "2")
        job.wait_told("3", version="3", rollout="rolled_back")
        job.wait_told("2", version="2", rollout="succeeded")


def approve(stack: Stack, number: str) -> None:
    """By the digest that they looked at. It runs code of its own: two people."""
    digest = stack.waypost("version", "show", MODEL, number)["manifest_digest"]
    for name in APPROVERS:
        what = (MODEL, number, "--digest", digest, "--reason", "looked at it")
        told = stack.waypost("approve", *what, token=stack.tokens[name])
    assert told["state"] == "approved", told


def wait_for_import(stack: Stack, number: str) -> None:
    """Nobody asked for it: the alias did."""

    def is_here() -> bool:
        rows = {row["remote_version"]: row for row in stack.waypost("imports", MODEL)}
        row = rows.get(number, {"state": ""})
        assert row["state"] != "failed", row["reason"]
        return row["state"] == "imported" and row["asked_by"] == "registry:mlflow"

    wait_until(is_here, seconds=60, what=f"version {number} is brought in", end=stack.logs)


def assert_served(site: DemoSite, job: CiJob, number: str) -> None:
    """The site's Triton answers as this version, and says what scikit-learn says."""
    said = job.versions[number]
    body = json.dumps({"inputs": [tensor(said["flowers"])]}).encode()
    request = urllib.request.Request(f"{site.http_url}/v2/models/{MODEL}/infer", data=body)
    with urllib.request.urlopen(request, timeout=10) as response:
        answer = json.load(response)
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert answer["model_version"] == number
    assert outputs["label"] == said["labels"]
    wanted = [value for row in said["probabilities"] for value in row]
    assert outputs["probabilities"] == pytest.approx(wanted, abs=CLOSE)
