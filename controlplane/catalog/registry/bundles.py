"""From the fetched files of a version to the files of a manifest: renames what a recipe places,
converts what has to be converted, and makes the configuration and golden requests that are missing.

It must not know the registry nor the catalogue's rows; paths in, paths out."""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.catalog.registry import Refused
from controlplane.catalog.registry.conversion import HOW_TO_TURN_ON, Converter
from controlplane.catalog.registry.flavors import NO_GOLDEN, Kind, Recipe
from controlplane.catalog.registry.mlmodel import Mlmodel
from controlplane.catalog.registry.onnx_config import config_of_graph
from controlplane.catalog.registry.triton_config import pyfunc_config, torchscript_config
from controlplane.domain.manifest import (
    CHUNK_BYTES,
    CONFIG_FILE,
    GOLDEN_FILE,
    SCHEMA,
    ManifestFile,
)

GRAPH_FILE = "model.onnx"
MAX_GOLDEN_BYTES = 8 << 20
_WRAPPER = Path(__file__).with_name("pyfunc_wrapper.py")
_PICKLED = (
    "It is a pickled module, which runs its author's code as it is read and which Triton's pytorch "
    "backend cannot read. Log a TorchScript module instead: torch.jit.script or torch.jit.trace, "
    "then mlflow.pytorch.log_model."
)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What lies on disk: files by their path in the registry, and a folder to make others in."""

    files: Mapping[str, Path]
    made: Path


def build(
    recipe: Recipe,
    mlmodel: Mlmodel | None,
    fetched: Fetched,
    *,
    model_name: str,
    converter: Converter,
) -> dict[str, Path]:
    """The files of the manifest by their path in it. Raises `Refused`."""
    bundle = {path: fetched.files[remote] for path, remote in recipe.placed.items()}
    fetched.made.mkdir(parents=True, exist_ok=True)
    signature = mlmodel.signature if mlmodel else None
    if recipe.kind is Kind.TORCHSCRIPT:
        require_torchscript(bundle["model.pt"])
        _add_config(bundle, fetched, recipe, lambda: torchscript_config(signature))
    elif recipe.kind is Kind.PYFUNC:
        bundle["model.py"] = _WRAPPER
        _add_config(bundle, fetched, recipe, lambda: pyfunc_config(signature))
    elif recipe.kind is not Kind.TRITON:
        _add_graph(bundle, recipe, mlmodel, fetched, converter)
        graph = bundle[GRAPH_FILE]
        _add_config(bundle, fetched, recipe, lambda: config_of_graph(model_name, graph))
    return bundle


def manifest_document(bundle: Mapping[str, Path]) -> dict[str, Any]:
    """Hashes every file; the manifest as it would be pushed."""
    entries = [_entry(path, local).entry() for path, local in sorted(bundle.items())]
    return {"schema": SCHEMA, "files": entries}


def require_torchscript(path: Path) -> None:
    """Looks at the names in the archive, and unpacks nothing. Both of torch's formats are zip files
    with `data.pkl`; only TorchScript's has its code and constants as files too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()[:100_000]}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise Refused(_PICKLED) from None
    if "constants.pkl" not in names or not any(name.startswith("code/") for name in names):
        raise Refused(_PICKLED)


def _add_graph(
    bundle: dict[str, Path],
    recipe: Recipe,
    mlmodel: Mlmodel | None,
    fetched: Fetched,
    converter: Converter,
) -> None:
    """The ONNX graph, and golden requests recorded with it where none came along."""
    recorded = fetched.made / GOLDEN_FILE
    example = {"example": fetched.files[recipe.example]} if recipe.example else {}
    if recipe.kind is Kind.ONNX:
        if not recipe.has_golden:
            if not example:
                raise Refused(NO_GOLDEN)
            if not converter.python:
                raise Refused(
                    "There are no golden requests; those that the input example gives are recorded "
                    f"by the converter, which is turned off here. {HOW_TO_TURN_ON} Or add a "
                    "golden.json to extra_files of log_model."
                )
            beside = {name: path for name, path in bundle.items() if name not in _OWN}
            converter.run({"kind": "onnx"}, inputs=example, graph=beside, into=fetched.made)
    else:
        assert mlmodel is not None
        if not recipe.has_golden and not example:
            raise Refused(NO_GOLDEN)
        asked = _asked(recipe.kind, mlmodel)
        model = {"model": fetched.files[recipe.source]}
        converter.run(asked, inputs={**model, **example}, into=fetched.made)
        bundle[GRAPH_FILE] = fetched.made / GRAPH_FILE
    if recipe.has_golden:
        return
    if not recorded.is_file():
        raise Refused(NO_GOLDEN)
    if recorded.stat().st_size > MAX_GOLDEN_BYTES:
        raise Refused(
            f"The golden requests that the input example gives have more than {MAX_GOLDEN_BYTES} "
            "bytes; log a smaller input_example."
        )
    bundle[GOLDEN_FILE] = recorded


_OWN = frozenset({CONFIG_FILE, GOLDEN_FILE})


def _asked(kind: Kind, mlmodel: Mlmodel) -> dict[str, Any]:
    if kind is Kind.XGBOOST:
        return {"kind": "xgboost", "model_class": mlmodel.text("xgboost", "model_class")}
    trusted = mlmodel.flavors["sklearn"].get("skops_trusted_types")
    return {
        "kind": "sklearn",
        "format": mlmodel.text("sklearn", "serialization_format"),
        "trusted": [str(name) for name in trusted] if isinstance(trusted, list) else [],
    }


def _add_config(bundle: dict[str, Path], fetched: Fetched, recipe: Recipe, make: Any) -> None:
    if not recipe.has_config:
        path = fetched.made / CONFIG_FILE
        path.write_text(make(), encoding="utf-8")
        bundle[CONFIG_FILE] = path


def _entry(path: str, local: Path) -> ManifestFile:
    whole, chunks, size = hashlib.sha256(), [], 0
    with local.open("rb") as file:
        while True:
            piece, left = hashlib.sha256(), CHUNK_BYTES
            while left and (block := file.read(min(1 << 20, left))):
                whole.update(block)
                piece.update(block)
                left -= len(block)
            if left == CHUNK_BYTES:
                break
            size += CHUNK_BYTES - left
            chunks.append(piece.hexdigest())
    several = tuple(chunks) if len(chunks) > 1 else ()
    return ManifestFile(path=path, size=size, sha256=whole.hexdigest(), chunks=several)
