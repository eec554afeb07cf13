"""What a version asks of the machines that are to serve it: what its manifest names.

Decides whether that is well formed. Whether a site meets it stands in `fit.py`, and the site's
agent says it again before it fetches anything; neither must be known here."""

import re
from collections.abc import Mapping

from controlplane.domain.errors import FieldError

MAX_BYTES = 1 << 50
MAX_BACKENDS = 32
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]{1,2}")
_TRITON = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}")
# One number more: TensorRT and drivers have up to four.
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")
_BACKEND = re.compile(r"[a-z][a-z0-9_]{0,63}")

BYTES = f"must be a whole number of bytes from 0 to {MAX_BYTES}"
RIGHT = {
    "accelerator_memory_bytes": BYTES,
    "memory_bytes": BYTES,
    "compute_capability": 'must be a text such as "8.0"',
    "compute_capability_exact": 'must be a text such as "8.9", the only one the build runs on',
    "driver": 'must be a version such as "550.54"',
    "tensorrt": 'must be a version such as "10.3", the one the build was made with',
    "triton": 'must be a version such as "2.51.0"',
    "backends": f"must be a list of at most {MAX_BACKENDS} names of backends such as onnxruntime",
}
_PATTERNS = {
    "compute_capability": _CAPABILITY,
    "compute_capability_exact": _CAPABILITY,
    "driver": _VERSION,
    "tensorrt": _VERSION,
    "triton": _TRITON,
}


def parse_requirements(
    document: object, faults: list[FieldError], where: str = "manifest.requires"
) -> dict[str, object]:
    """As they were written, with every fault added to `faults`; nothing asks for nothing."""
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        message = f"must be an object with some of {', '.join(RIGHT)}"
        faults.append(FieldError(field=where, message=message))
        return {}
    for key in sorted(set(map(str, document)) - set(RIGHT)):
        message = f"is not known; known are {', '.join(RIGHT)}"
        faults.append(FieldError(field=f"{where}.{key}", message=message))
    for key, right in RIGHT.items():
        if key in document and not _is_right(key, document[key]):
            faults.append(FieldError(field=f"{where}.{key}", message=right))
    return dict(document)


def _is_right(key: str, value: object) -> bool:
    if key == "backends":
        names = value if isinstance(value, list) else [None]
        return len(names) <= MAX_BACKENDS and all(
            isinstance(name, str) and _BACKEND.fullmatch(name) for name in names
        )
    if RIGHT[key] == BYTES:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and 0 <= value <= MAX_BYTES  # type: ignore[operator]
    return isinstance(value, str) and _PATTERNS[key].fullmatch(value) is not None
