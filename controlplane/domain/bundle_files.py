"""Whether each file of a version is one that its backend has business with, and what class of
content the version is.

Judges names alone. Triton looks for a backend's library in the version's folder before its own
(`GetBackendLibrarySearchPaths` of Triton's core), so a file too many can be code that runs in the
server: in a version that claims to be data such a file is a fault, never merely another class.

Libraries (`.so` and its kin) are refused for every backend. None needs one in a version: torch's
ahead-of-time models come as `.pt2` packages, TensorRT's plugins and python's extension modules
belong to the site's image.

Sites judge again, by names and configuration, so what is right here must be right there: the cases
that both ends are held to are docs/protocol/bundle-classes.json.
"""

import posixpath
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import Final

from controlplane.domain.backends import Backend, ContentClass
from controlplane.domain.findings import Finding, fault, shown
from controlplane.domain.manifest import CONFIG_FILE, GOLDEN_FILE, path_fault

_LIBRARY = re.compile(r"\.(so|dll|dylib|pyd)(\.[0-9][0-9.]*)?$", re.IGNORECASE)
_SCRIPT = re.compile(r"\.(py|pyc|pyw|sh|pl|rb|js|ps1|bat|cmd|exe|jar|class)$", re.IGNORECASE)
_PICKLE = re.compile(r"\.(pkl|pickle|p|joblib|dill|cloudpickle|npy|npz)$", re.IGNORECASE)
_TORCH = re.compile(r"\.(pt|pt2|pth|ckpt|bin)$", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(zip|tar|gz|tgz|bz2|xz|zst|7z|rar|whl|egg)$", re.IGNORECASE)
_CACHE = "__pycache__"

# What may lie beside any model: read by people and clients, never by a backend.
EXTRA_SUFFIXES: Final = (".txt", ".json", ".md", ".csv", ".tsv", ".yaml", ".yml", ".labels")
EXTRA_NAMES: Final = frozenset({"license", "notice", "readme", "mlmodel", "authors", "version"})


def judge_files(
    backend: Backend | None,
    *,
    paths: Collection[str],
    default_file: str = "",
    referenced: Collection[str] | None = None,
) -> tuple[ContentClass, tuple[Finding, ...]]:
    """The class of a version and what is wrong with its files.

    `default_file` is the configuration's `default_model_filename`; `referenced` are the files that
    the model file keeps weights in, None while only names are known. Without a known backend the
    class is `executable`: what nobody can judge is not called data.
    """
    payload = sorted(set(paths) - {CONFIG_FILE, GOLDEN_FILE})
    refused = {path: tuple(_forbidden(path)) for path in payload}
    findings = [each for found in refused.values() for each in found]
    if backend is None:
        return ContentClass.EXECUTABLE, tuple(findings)
    findings += _main_file(backend, payload, default_file)
    weights = payload if referenced is None else referenced
    welcome = {path for path in weights if _is_weights(backend, path)}
    if backend.content is ContentClass.EXECUTABLE:
        welcome.add(default_file)
    for path in payload:
        if not refused[path] and not _is_welcome(backend, path, welcome):
            is_named = path in (referenced or ()) or path == default_file
            findings.append(_stranger(backend, path, is_named=is_named))
    return backend.content, tuple(findings)


def _forbidden(path: str) -> Iterator[Finding]:
    """What no backend may find in a version."""
    name = posixpath.basename(path)
    if (why := path_fault(path)) is not None:
        shown_path = path if len(path) <= 100 and path.isprintable() else shown(path)
        yield fault(shown_path, f"The name {why}.", "Rename the file.")
    elif name.lower().startswith("libtriton_"):
        message = (
            "Triton would load it as a backend of its own: it looks in the version's folder first."
        )
        yield fault(path, message, "Remove it; the site's image brings the backends.")
    elif name.lower() == "batchstrategy.so":
        message = "Triton would load it as a batching strategy as soon as it lies there."
        yield fault(path, message, "Remove it.")
    elif _LIBRARY.search(name):
        message = "It is a native library, which runs in the server when it is loaded."
        yield fault(path, message, "Remove it; libraries belong to the site's image.")
    elif _CACHE in path.split("/") or name.lower().endswith(".pyc"):
        message = "It is Python's compiled cache, which nobody can read and agents refuse."
        yield fault(path, message, f"Remove {_CACHE}; it is made anew where it is needed.")


def _main_file(backend: Backend, payload: Collection[str], default: str) -> Iterator[Finding]:
    wanted = (default,) if default else backend.main
    tops = {path.partition("/")[0] for path in payload if backend.folder or "/" not in path}
    if not wanted or tops.intersection(wanted):
        return
    if default:
        return  # the configuration's own rule names it, with its line
    likely = [path for path in payload if "/" not in path and _reads(backend, path)]
    names = " or ".join(wanted)
    rename = f' or write default_model_filename: "{likely[0]}"' if len(likely) == 1 else ""
    message = f"The {backend.name} backend looks for {names}, which is not among the files."
    yield fault(CONFIG_FILE, message, f"Push {names}{rename}.", field="default_model_filename")


def _reads(backend: Backend, path: str) -> bool:
    name = posixpath.basename(path)
    if name in backend.names:
        return True
    is_weights = re.fullmatch(r"variables\.data-[0-9]{5}-of-[0-9]{5}", name) is not None
    if backend.name == "tensorflow" and (is_weights or "/assets/" in f"/{path}"):
        return True
    return name.lower().endswith(backend.suffixes) if backend.suffixes else False


def _is_welcome(backend: Backend, path: str, welcome: Collection[str]) -> bool:
    if backend.free or _reads(backend, path):
        return True
    name = posixpath.basename(path)
    if _SCRIPT.search(name) or _PICKLE.search(name) or _ARCHIVE.search(name):
        return False
    return path in welcome or name.lower() in EXTRA_NAMES or name.lower().endswith(EXTRA_SUFFIXES)


def _is_weights(backend: Backend, path: str) -> bool:
    name = posixpath.basename(path).lower()
    return any(_fits(name, pattern) for pattern in backend.weights)


def _fits(name: str, pattern: str) -> bool:
    """The star of an ending holds no dot: `onnx__*` is not `onnx__x.py`."""
    stem, dot, ending = name.rpartition(".")
    wanted, wanted_dot, wanted_ending = pattern.rpartition(".")
    return dot == wanted_dot and fnmatchcase(stem, wanted) and fnmatchcase(ending, wanted_ending)


def _stranger(backend: Backend, path: str, *, is_named: bool) -> Finding:
    """`is_named`: the model file or the configuration asks for it."""
    name = posixpath.basename(path)
    kinds = ", ".join((*backend.suffixes, *EXTRA_SUFFIXES))
    cure = f"Remove it; beside a {backend.name} model may lie {kinds}."
    if _SCRIPT.search(name):
        why = f"It is a script, and a version for {backend.name} carries no code."
        return fault(path, why, f"Remove it, or serve by the python backend. {cure}")
    if _PICKLE.search(name) or (_TORCH.search(name) and not _is_weights(backend, path)):
        why = f"It may hold pickled objects, which run code when they are read; {backend.name}"
        return fault(path, f"{why} has no business with it.", cure)
    if _ARCHIVE.search(name):
        return fault(path, "It is an archive, whose files nobody has checked.", cure)
    known = ", ".join((*backend.suffixes, *backend.weights))
    if not is_named or not known:
        return fault(path, f"The {backend.name} backend has no business with it.", cure)
    why = f"Sites know the files of the {backend.name} backend by their names: {known}."
    example = "model.onnx.data" if backend.weights else backend.main[0]
    return fault(path, why, f"Export or name it again with such a name, for example {example}.")
