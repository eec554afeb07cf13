"""Labels as `--label key=value`. Decides what they mean, nothing else."""

from collections.abc import Sequence

from waypost_cli.errors import CliError


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """Raises `CliError` for a text without `=`, an empty key, or a key given twice."""
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CliError(f"the label {text!r} is not key=value", cure="--label commit=1a2b3c4")
        if key in labels:
            raise CliError(f"the label {key!r} is given twice", cure="give it once")
        labels[key] = value
    return labels
