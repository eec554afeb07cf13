"""What a CI job does with MLflow, for the tests: runs in the environment `.mlflow`, against the
server at MLFLOW_TRACKING_URI. One JSON object on stdin says what, one on stdout what came of it."""

import json
import sys
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

EXPERIMENT = "ci"


def log_folder(asked: dict[str, Any]) -> dict[str, Any]:
    """A folder of Triton's without a flavor: the recipe of docs/mlflow.md."""
    client = MlflowClient()
    name, run = asked["name"], asked.get("run_id")
    model = client.create_logged_model(
        _experiment(client), name, source_run_id=run, model_type="triton"
    )
    client.log_model_artifacts(model.model_id, asked["folder"])
    client.finalize_logged_model(model.model_id, "READY")
    _registered(client, name)
    source = f"models:/{model.model_id}"
    version = client.create_model_version(name, source, run_id=run, model_id=model.model_id)
    return {"version": str(version.version)}


def train_iris(asked: dict[str, Any]) -> dict[str, Any]:
    """A classifier that was trained just now, as `model.onnx` in a folder; and what scikit-learn
    itself makes of the flowers that it is asked about."""
    import numpy as np
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    mlflow.set_experiment(EXPERIMENT)
    inputs, labels = load_iris(return_X_y=True)
    inputs = inputs.astype(np.float32)
    with mlflow.start_run() as run:
        mlflow.set_tag("git_commit", asked["git_commit"])
        model = LogisticRegression(C=asked["regularisation"], max_iter=500).fit(inputs, labels)
        mlflow.log_metric("accuracy", float(model.score(inputs, labels)))
    graph = to_onnx(model, inputs[:1], options={"zipmap": False}, target_opset=17)
    graph.ir_version = 8
    Path(asked["folder"], "model.onnx").write_bytes(graph.SerializeToString())
    flowers = inputs[:: asked["every"]]
    return {
        "run_id": run.info.run_id,
        "flowers": flowers.tolist(),
        "labels": model.predict(flowers).tolist(),
        "probabilities": model.predict_proba(flowers).tolist(),
    }


def log_iris(asked: dict[str, Any]) -> dict[str, Any]:
    """A small model that was trained just now, by the flavor that is asked for."""
    import numpy as np
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    mlflow.set_experiment(EXPERIMENT)
    inputs, labels = load_iris(return_X_y=True)
    inputs = inputs.astype(np.float32)
    model = LogisticRegression(max_iter=asked.get("max_iter", 200)).fit(inputs, labels)
    example = inputs[:3] if asked.get("example", True) else None
    flavor = asked["flavor"]
    named: dict[str, Any] = {
        "name": asked["name"],
        "registered_model_name": asked["name"],
        "pip_requirements": [],
        "input_example": example,
    }
    with mlflow.start_run() as run:
        mlflow.log_metric("accuracy", float(model.score(inputs, labels)))
        if flavor == "sklearn":
            form = asked.get("format")
            more = {"serialization_format": form} if form else {}
            mlflow.sklearn.log_model(model, **named, **more)
        elif flavor == "onnx":
            from skl2onnx import to_onnx

            graph = to_onnx(model, inputs[:1], options={"zipmap": False}, target_opset=17)
            graph.ir_version = 8
            mlflow.onnx.log_model(graph, **named)
        elif flavor == "xgboost":
            import xgboost

            trees = xgboost.XGBClassifier(n_estimators=4, max_depth=2).fit(inputs, labels)
            mlflow.xgboost.log_model(trees, **named)
        else:
            raise ValueError(flavor)
    version = MlflowClient().search_model_versions(f"name='{asked['name']}'")[0]
    return {"version": str(version.version), "run_id": run.info.run_id}


def log_python(asked: dict[str, Any]) -> dict[str, Any]:
    """A model of its author's own code, which multiplies two columns of a table. MLflow has no
    extra files for these: the golden requests go in as an artifact."""
    import pandas as pd
    from mlflow.models import infer_signature

    class Area(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # untyped where this is checked
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return pd.DataFrame({"area": model_input["w"] * model_input["h"]})

    table = pd.DataFrame({"w": [1.0, 2.0], "h": [3.0, 4.0]})
    mlflow.set_experiment(EXPERIMENT)
    mlflow.pyfunc.log_model(
        name=asked["name"],
        registered_model_name=asked["name"],
        python_model=Area(),
        signature=infer_signature(table, Area().predict(None, table)),
        artifacts={"golden": asked["golden"]},
        pip_requirements=[],
    )
    return {}


def set_alias(asked: dict[str, Any]) -> dict[str, Any]:
    MlflowClient().set_registered_model_alias(asked["name"], asked["alias"], asked["version"])
    return {}


def set_stage(asked: dict[str, Any]) -> dict[str, Any]:
    MlflowClient().transition_model_version_stage(asked["name"], asked["version"], asked["stage"])
    return {}


def tags(asked: dict[str, Any]) -> dict[str, Any]:
    return dict(MlflowClient().get_model_version(asked["name"], asked["version"]).tags)


def set_tag(asked: dict[str, Any]) -> dict[str, Any]:
    client = MlflowClient()
    client.set_model_version_tag(asked["name"], asked["version"], asked["key"], asked["value"])
    return {}


def add_webhook(asked: dict[str, Any]) -> dict[str, Any]:
    hook = MlflowClient().create_webhook(
        name=asked["name"],
        url=asked["url"],
        events=["model_version.created", "model_version_alias.created"],
        secret=asked["secret"],
    )
    return {"id": hook.webhook_id}


def register_source(asked: dict[str, Any]) -> dict[str, Any]:
    client = MlflowClient()
    _registered(client, asked["name"])
    return {"version": str(client.create_model_version(asked["name"], asked["source"]).version)}


def _registered(client: MlflowClient, name: str) -> None:
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id if found else client.create_experiment(EXPERIMENT))


VERBS = (
    log_folder, train_iris, log_iris, log_python, set_alias, set_stage, tags, set_tag,
    add_webhook, register_source,
)  # fmt: skip


def main() -> None:
    """One line in, one line out, until the end: importing MLflow takes seconds."""
    verbs = {verb.__name__: verb for verb in VERBS}
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"ok": True, **verbs[asked["verb"]](asked)}
        except Exception as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
    main()
