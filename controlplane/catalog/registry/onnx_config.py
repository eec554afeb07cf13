"""A `config.pbtxt` for an ONNX graph that came without one, by the catalogue's own rules."""

from pathlib import Path

from controlplane.catalog.registry import Refused
from controlplane.catalog.validation import config_from_onnx
from controlplane.domain.errors import InvalidInput


def config_of_graph(model_name: str, graph: Path) -> str:
    """Raises `Refused` for a graph that no configuration can be made of."""
    try:
        return config_from_onnx(graph, model_name=model_name)
    except InvalidInput as error:
        said = "; ".join(f"{each.field}: {each.message}" for each in error.errors[:5])
        cure = "Add a config.pbtxt to extra_files of log_model."
        raise Refused(f"{error.detail} {said} {cure}") from error
