"""Versions of a real MLflow server come into the catalogue: by number, by alias, by stage."""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from controlplane.catalog.models import ImportedVersion, RegistryLink, Version
from controlplane.catalog.queries import blob_store
from controlplane.catalog.registry.linking import import_version, link_model
from controlplane.catalog.registry.sources import mlflow_source
from tests.mlflow.server import MlflowServer

CONFIG = (
    'backend: "python"\nmax_batch_size: 0\n'
    'input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }\n'
    'output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }\n'
)
GOLDEN = {
    "schema": "waypost.golden/1",
    "requests": [
        {
            "name": "one",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [2.0]}],
        }
    ],
}
Turn = Callable[..., None]


def linked(model: str, now: datetime, **aliases: str) -> RegistryLink:
    link, _ = link_model(
        model_name=model,
        remote_name=model,
        aliases=aliases,
        stages={},
        actor="token:ann",
        person="ann",
        now=now,
    )
    return link


def asked(link: RegistryLink, now: datetime, **which: str) -> ImportedVersion:
    row, _ = import_version(link=link, source=mlflow_source(), actor="token:ann", now=now, **which)
    return row


def outcome(row: ImportedVersion) -> ImportedVersion:
    row.refresh_from_db()
    return row


def folder_of_triton(folder: Path, text: str = "print('a')\n") -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "golden.json").write_text(json.dumps(GOLDEN))
    (folder / "1" / "model.py").write_text(text)
    return folder


def stored(version: Version, path: str) -> bytes:
    with blob_store().open(version.files.get(path=path).sha256) as file:
        return file.read()


def test_a_folder_of_triton_comes_in_by_its_number(
    mlflow: MlflowServer, turn: Turn, now: datetime, tmp_path: Path
) -> None:
    mlflow.call("log_folder", name="folder", folder=str(folder_of_triton(tmp_path / "f")))
    row = asked(linked("folder", now), now, version="1")
    turn()
    row = outcome(row)
    assert (row.state, row.reason) == ("imported", "")
    assert row.source_uri.startswith("models:/m-")
    version = row.version
    assert version is not None
    assert (version.number, version.author) == (1, "ann")
    assert version.content_class == "executable"
    assert {f.path for f in version.files.all()} == {"config.pbtxt", "golden.json", "model.py"}
    body = b"print('a')\n"
    assert version.files.get(path="model.py").sha256 == hashlib.sha256(body).hexdigest()
    assert stored(version, "model.py") == body
    tags = mlflow.call("tags", name="folder", version="1")
    assert tags == {"waypost.version": "1", "waypost.state": version.state}


def test_an_onnx_model_gets_a_configuration_and_golden_requests(
    mlflow: MlflowServer, turn: Turn, now: datetime
) -> None:
    run = mlflow.call("log_iris", name="graph", flavor="onnx")
    row = asked(linked("graph", now), now, version="1")
    turn()
    row = outcome(row)
    assert (row.state, row.reason) == ("imported", "")
    version = row.version
    assert version is not None
    assert version.content_class == "data"
    assert version.lineage["mlflow_run"] == run["run_id"]
    assert set(version.lineage["metrics"]) == {"accuracy"}
    assert b"onnxruntime" in stored(version, "config.pbtxt")
    golden = json.loads(stored(version, "golden.json"))
    assert golden["requests"][0]["inputs"][0]["shape"] == [3, 4]


@pytest.mark.parametrize(
    ("flavor", "form"), [("sklearn", None), ("sklearn", "cloudpickle"), ("xgboost", None)]
)
def test_a_trained_model_is_converted(
    flavor: str, form: str | None, mlflow: MlflowServer, turn: Turn, now: datetime
) -> None:
    name = f"trained-{flavor}-{form or 'default'}"
    mlflow.call("log_iris", name=name, flavor=flavor, format=form)
    row = asked(linked(name, now), now, version="1")
    turn(converter=False)
    row = outcome(row)
    assert row.state == "failed"
    assert "WAYPOST_CONVERTER_PYTHON" in row.reason
    assert mlflow.call("tags", name=name, version="1")["waypost.state"] == "failed"
    asked(row.link, now, version="1")
    turn()
    row = outcome(row)
    assert (row.state, row.reason) == ("imported", "")
    assert row.version is not None
    assert row.version.content_class == "data"
    labels = json.loads(stored(row.version, "golden.json"))["requests"][0]["outputs"][0]
    assert labels["data"] == [0, 0, 0]


def test_a_python_model_is_wrapped_for_the_python_backend(
    mlflow: MlflowServer, turn: Turn, now: datetime, tmp_path: Path
) -> None:
    def column(name: str, *data: float) -> dict[str, object]:
        return {"name": name, "datatype": "FP64", "shape": [2, 1], "data": data}

    inputs, outputs = [column("w", 1, 2), column("h", 3, 4)], [column("area", 3, 8)]
    golden = {**GOLDEN, "requests": [{"name": "two", "inputs": inputs, "outputs": outputs}]}
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    mlflow.call("log_python", name="python", golden=str(tmp_path / "golden.json"))
    row = asked(linked("python", now), now, version="1")
    turn(converter=False)
    row = outcome(row)
    assert (row.state, row.reason) == ("imported", "")
    version = row.version
    assert version is not None
    assert version.content_class == "executable"
    assert json.loads(stored(version, "golden.json")) == json.loads(json.dumps(golden))
    config = stored(version, "config.pbtxt")
    assert b'name: "area" data_type: TYPE_FP64 dims: [ -1, 1 ]' in config
    assert b'string_value: "columns"' in config
    assert b"class TritonPythonModel" in stored(version, "model.py")
    assert b"loader_module: mlflow.pyfunc.model" in stored(version, "mlflow/MLmodel")


def test_without_an_example_there_are_no_golden_requests(
    mlflow: MlflowServer, turn: Turn, now: datetime
) -> None:
    mlflow.call("log_iris", name="bare", flavor="sklearn", example=False)
    row = asked(linked("bare", now), now, version="1")
    turn()
    row = outcome(row)
    assert row.state == "failed"
    assert "no golden requests" in row.reason
    assert "input_example" in row.reason
    assert "golden.json" in row.reason
    assert not Version.objects.exists()


def test_an_alias_is_looked_up_once(
    mlflow: MlflowServer, turn: Turn, now: datetime, tmp_path: Path
) -> None:
    for number in (1, 2):
        folder = folder_of_triton(tmp_path / str(number), f"print({number})\n")
        mlflow.call("log_folder", name="aliased", folder=str(folder))
    mlflow.call("set_alias", name="aliased", alias="champion", version="1")
    row = asked(linked("aliased", now), now, alias="champion")
    assert row.remote_version == "1"
    mlflow.call("set_alias", name="aliased", alias="champion", version="2")
    turn()
    row = outcome(row)
    assert row.version is not None
    assert stored(row.version, "model.py") == b"print(1)\n"


def test_a_watched_alias_brings_in_what_it_moves_to(
    mlflow: MlflowServer, turn: Turn, now: datetime, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        folder = folder_of_triton(tmp_path / str(number), f"print({number})\n")
        mlflow.call("log_folder", name="watched", folder=str(folder))
    mlflow.call("set_alias", name="watched", alias="prod", version="1")
    link = linked("watched", now, prod="stable")
    turn()
    assert [row.remote_version for row in link.imports.all()] == ["1"]
    mlflow.call("set_alias", name="watched", alias="prod", version="3")
    turn()
    rows = {row.remote_version: row for row in link.imports.all()}
    assert set(rows) == {"1", "3"}
    assert rows["3"].state == "imported"
    assert rows["3"].channels == ["stable"]
    assert rows["1"].channels == []
    assert "waits" in rows["3"].reason


def test_stages_work_where_a_server_has_them(
    mlflow: MlflowServer, turn: Turn, now: datetime, tmp_path: Path
) -> None:
    mlflow.call("log_folder", name="staged", folder=str(folder_of_triton(tmp_path / "f")))
    mlflow.call("set_stage", name="staged", version="1", stage="Production")
    row = asked(linked("staged", now), now, stage="Production")
    assert row.remote_version == "1"


def test_a_source_that_nobody_hands_out_is_refused_with_the_cure(
    mlflow: MlflowServer, turn: Turn, now: datetime
) -> None:
    mlflow.call("register_source", name="bucket", source="s3://models/elsewhere")
    row = asked(linked("bucket", now), now, version="1")
    turn()
    row = outcome(row)
    assert row.state == "failed"
    assert "--artifacts-destination" in row.reason


def test_a_version_that_is_not_there_fails_and_says_so(
    mlflow: MlflowServer, turn: Turn, now: datetime
) -> None:
    row = asked(linked("nothing", now), now, version="7")
    turn()
    assert outcome(row).state == "failed"
    assert "does not know version 7" in outcome(row).reason
