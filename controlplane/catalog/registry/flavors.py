"""What to make of a version of MLflow: which of its files are needed, what they are called in a
manifest, and what has to be made beside them. Decides on names and on `MLmodel` alone.

It must not open files of models: that is `bundles.py`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.catalog.registry import Refused, RemoteFile
from controlplane.catalog.registry.mlmodel import MLMODEL_FILE, Mlmodel
from controlplane.domain.manifest import CONFIG_FILE, GOLDEN_FILE, path_fault

# A tag of the version in MLflow that chooses among its flavors.
FLAVOR_TAG = "waypost.flavor"
WRAPPED_FOLDER = "mlflow"
NO_GOLDEN = (
    "There are no golden requests: log the model with an input_example, or add a golden.json "
    "(extra_files of log_model, or a file beside config.pbtxt)."
)
# What MLflow writes beside every model, for its own use.
_OF_MLFLOW = frozenset(
    {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "registered_model_meta"}
)
_EXAMPLES = frozenset({"input_example.json", "serving_input_example.json"})
_NUMBERED = re.compile(r"[0-9]{1,10}", re.ASCII)
_PICKLED_CURE = (
    "Log a TorchScript module instead (torch.jit.script or torch.jit.trace, then "
    "mlflow.pytorch.log_model), or export it to ONNX and log that with mlflow.onnx.log_model."
)


class Kind(StrEnum):
    """What a version is turned into."""

    TRITON = "triton"
    ONNX = "onnx"
    TORCHSCRIPT = "pytorch"
    SKLEARN = "sklearn"
    XGBOOST = "xgboost"
    PYFUNC = "pyfunc"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`placed` maps paths of the manifest to paths in the registry. `source` is the registry's path
    of what is converted, and `example` of the input example; they are fetched and not placed."""

    kind: Kind
    placed: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    example: str = ""

    @property
    def needed(self) -> frozenset[str]:
        """Paths in the registry to fetch."""
        return frozenset(filter(None, (*self.placed.values(), self.source, self.example)))

    @property
    def has_config(self) -> bool:
        return CONFIG_FILE in self.placed

    @property
    def has_golden(self) -> bool:
        return GOLDEN_FILE in self.placed


def choose(files: Sequence[RemoteFile], mlmodel: Mlmodel | None, *, wanted: str = "") -> Recipe:
    """The recipe for a version with these files. `wanted` names a flavor, or is empty.

    Raises `Refused`, with what the author can do about it.
    """
    paths = {file.path for file in files}
    if mlmodel is None or (CONFIG_FILE in paths and not wanted):
        return _triton(paths)
    makers = {
        "onnx": _onnx,
        "pytorch": _torchscript,
        "sklearn": _sklearn,
        "xgboost": _xgboost,
        "python_function": _pyfunc,
    }
    wanted = {"pyfunc": "python_function"}.get(wanted, wanted)
    for flavor, make in makers.items():
        if flavor in mlmodel.flavors and wanted in ("", flavor):
            recipe = make(paths, mlmodel)
            _check_names(recipe)
            return recipe
    known = ", ".join(sorted(str(flavor)[:40] for flavor in mlmodel.flavors)[:20]) or "none"
    asked = f"the flavor {wanted[:40]!r} that its tag {FLAVOR_TAG} asks for" if wanted else "one"
    raise Refused(
        f"The version has the flavors {known}, and not {asked}; imported are "
        f"{', '.join(makers)}, and a folder with config.pbtxt."
    )


def _triton(paths: Iterable[str]) -> Recipe:
    """A folder as Triton's model repository has it, or as `waypost push` takes it."""
    own = {path for path in paths if path not in _OF_MLFLOW}
    if CONFIG_FILE not in own:
        raise Refused(
            f"The version has neither {MLMODEL_FILE} nor {CONFIG_FILE}; log it with a flavor of "
            "MLflow, or as a folder with Triton's configuration."
        )
    numbers = {path.split("/")[0] for path in own if "/" in path}
    numbers = {number for number in numbers if _NUMBERED.fullmatch(number)}
    if len(numbers) > 1:
        raise Refused(
            f"The folder has the versions {', '.join(sorted(numbers, key=int))}; log one version "
            "at a time, each as its own version in MLflow."
        )
    placed: dict[str, str] = {}
    loose = []
    for path in sorted(own):
        head, _, rest = path.partition("/")
        if head in numbers and rest:
            placed[rest] = path
        elif path in (CONFIG_FILE, GOLDEN_FILE) or not numbers:
            placed[path] = path
        else:
            loose.append(path)
    if loose:
        raise Refused(
            f"{', '.join(loose)[:300]} would have no place: every file but {CONFIG_FILE} and "
            f"{GOLDEN_FILE} belongs into the folder {numbers.pop()}/."
        )
    recipe = Recipe(kind=Kind.TRITON, placed=placed)
    _check_names(recipe)
    if not recipe.has_golden:
        raise Refused(NO_GOLDEN)
    return recipe


def _onnx(paths: Iterable[str], mlmodel: Mlmodel) -> Recipe:
    """The graph as `model.onnx`. Tensors that MLflow put into files of their own stay beside it
    under their own names, which are written in the graph."""
    paths = set(paths)
    graph = _named(paths, mlmodel.text("onnx", "data"), "onnx.data")
    folder = graph.rpartition("/")[0]
    beside = {
        path.rpartition("/")[2]: path
        for path in paths
        if path.rpartition("/")[0] == folder
        and path.rpartition("/")[2] not in (*_OF_MLFLOW, *_EXAMPLES, CONFIG_FILE, GOLDEN_FILE)
        and path != graph
    }
    return Recipe(
        kind=Kind.ONNX,
        placed={**beside, "model.onnx": graph, **_given(paths)},
        example=_example(paths, mlmodel),
    )


def _torchscript(paths: Iterable[str], mlmodel: Mlmodel) -> Recipe:
    paths = set(paths)
    folder = mlmodel.text("pytorch", "model_data") or "data"
    data = next((p for p in (f"{folder}/model.pth", f"{folder}/model.pt") if p in paths), "")
    if not data:
        raise Refused(f"The model is no TorchScript file. {_PICKLED_CURE}")
    recipe = Recipe(kind=Kind.TORCHSCRIPT, placed={"model.pt": data, **_given(paths)})
    if not recipe.has_golden:
        # Nothing here can run it: the converter has no torch.
        raise Refused(
            "There are no golden requests, and a TorchScript model is not run here to record any: "
            "add a golden.json to extra_files of mlflow.pytorch.log_model."
        )
    return recipe


def _sklearn(paths: Iterable[str], mlmodel: Mlmodel) -> Recipe:
    paths = set(paths)
    source = _named(paths, mlmodel.text("sklearn", "pickled_model"), "sklearn.pickled_model")
    return Recipe(
        kind=Kind.SKLEARN,
        source=source,
        placed=_given(paths),
        example=_example(paths, mlmodel),
    )


def _xgboost(paths: Iterable[str], mlmodel: Mlmodel) -> Recipe:
    paths = set(paths)
    source = _named(paths, mlmodel.text("xgboost", "data"), "xgboost.data")
    if not source.endswith((".json", ".ubj")):
        raise Refused(
            f"{source[:80]!r} is no JSON or UBJSON file of XGBoost; log it with model_format="
            '"ubj", which is the default.'
        )
    return Recipe(
        kind=Kind.XGBOOST,
        source=source,
        placed=_given(paths),
        example=_example(paths, mlmodel),
    )


def _pyfunc(paths: Iterable[str], mlmodel: Mlmodel) -> Recipe:
    paths = set(paths)
    given = _given(paths)
    if GOLDEN_FILE not in given:
        raise Refused(
            "There are no golden requests, and a python model is not run here to record any: add a "
            'golden.json, by artifacts={"golden": "golden.json"} of mlflow.pyfunc.log_model, or by '
            "extra_files where the flavor's log_model has it."
        )
    # Its artifacts stay where MLmodel says that they are.
    moved = {path for path in given.values() if not path.startswith("artifacts/")}
    wrapped = {f"{WRAPPED_FOLDER}/{path}": path for path in paths - moved}
    return Recipe(kind=Kind.PYFUNC, placed={**wrapped, **given})


def _given(paths: Iterable[str]) -> dict[str, str]:
    """Triton's configuration and golden requests that were logged with the model: as extra files,
    or where MLflow's python flavor has none, as artifacts."""
    paths = set(paths)
    return {
        name: path
        for name in (CONFIG_FILE, GOLDEN_FILE)
        for path in (f"extra_files/{name}", f"artifacts/{name}", name)
        if path in paths
    }


def _example(paths: Iterable[str], mlmodel: Mlmodel) -> str:
    return mlmodel.example if mlmodel.example in set(paths) else ""


def _named(paths: Iterable[str], path: str, key: str) -> str:
    """What `MLmodel` names counts only if it is one of the version's files."""
    if path not in set(paths):
        raise Refused(f"{MLMODEL_FILE} names {path[:80]!r} as {key}, which is not in the version.")
    return path


def _check_names(recipe: Recipe) -> None:
    faults = [fault for path in sorted(recipe.placed) if (fault := path_fault(path))]
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise Refused(f"Names that a version cannot have: {'; '.join(faults[:5])}{more}.")
