"""Whether a configuration may be loaded at any site: every rule, all faults at once.

Judges a `ConfigView` and knows no protobuf, no store and no site. The rules are those of Triton's
hardening guide and of its source: each refuses a way to reach past the version's own files, to
load code that nobody approved, or to take a server down.
"""

from collections.abc import Collection, Iterator
from typing import Final

from controlplane.domain.backends import (
    BACKENDS,
    ENSEMBLE,
    PLATFORMS,
    Backend,
    backend_named,
)
from controlplane.domain.config_bounds import MAX_TEXT, shape_findings, size_findings
from controlplane.domain.config_view import ConfigView, NamedFile, Parameter
from controlplane.domain.findings import Finding, Level, shown
from controlplane.domain.manifest import CONFIG_FILE, GOLDEN_FILE, path_fault

# Each with why it is refused, and what to do instead.
REFUSED: Final = {
    "runtime": (
        "It names a library or script that the server loads as the backend.",
        "Leave it out; the backend's own is used.",
    ),
    "model_operations": (
        "It loads libraries of custom operators into the server.",
        "Leave it out; use operators that the backend has.",
    ),
    "model_repository_agents": (
        "It runs repository agents inside the server before the model loads.",
        "Leave it out; the site's agent verifies every file.",
    ),
    "cc_model_filenames": (
        "It picks files by hardware, and falls back silently to another one.",
        "Push one variant per compute capability instead.",
    ),
}
# Parameters that are refused for every backend, however they are written: sites fold them too.
_REFUSED_PARAMETERS: Final = {
    "EXECUTION_ENV_PATH": (
        "It brings an interpreter of its own, in an archive that nobody has checked.",
        "Install the packages into the python backend of the sites, and leave it out.",
    ),
    "TRITON_BATCH_STRATEGY_PATH": ("It loads a library into the server.", "Leave it out."),
}


def lint(
    view: ConfigView,
    *,
    model_name: str,
    paths: Collection[str],
    known_models: Collection[str] | None,
) -> tuple[Finding, ...]:
    """Judges the configuration of a version of `model_name` that has the files `paths`.

    An ensemble may only name `known_models`; None: they are not known yet, which is a warning.
    """
    files = frozenset(paths) - {CONFIG_FILE, GOLDEN_FILE}
    backend = backend_named(backend=view.backend, platform=view.platform)
    return (
        *_name(view, model_name),
        *_backend(view, backend),
        *_refused(view),
        *_files(view, backend, files),
        *(_parameters(view, backend) if backend else ()),
        *(_accelerators(view, backend) if backend else ()),
        *shape_findings(view),
        *size_findings(view),
        *_ensemble(view, model_name, known_models),
        *_without_effect(view),
    )


def _name(view: ConfigView, model_name: str) -> Iterator[Finding]:
    if view.name not in ("", model_name):
        yield view.finding(
            "name",
            f"It names the model {shown(view.name)}, this is a version of {shown(model_name)}.",
            f'Write name: "{model_name}", or leave the name out.',
        )


def _backend(view: ConfigView, backend: Backend | None) -> Iterator[Finding]:
    allowed = ", ".join(sorted(set(BACKENDS) - {ENSEMBLE}))
    if backend is not None:
        if backend.note:
            place = "backend" if view.backend else "platform"
            cure = "Convert the model to ONNX."
            yield view.finding(place, f"{backend.note}.", cure, Level.WARNING)
        return
    if not view.backend and not view.platform:
        yield view.finding("backend", "It names no backend.", f"Set backend to one of {allowed}.")
        return
    if view.backend and view.backend not in BACKENDS:
        message = f"{shown(view.backend)} is no backend that a version may use."
        yield view.finding("backend", message, f"Set it to one of {allowed}.")
    if view.platform and view.platform not in PLATFORMS:
        message = f"{shown(view.platform)} is no platform that a version may use."
        cure = f"Leave it out and set backend, or set it to one of {', '.join(sorted(PLATFORMS))}."
        yield view.finding("platform", message, cure)
    if view.backend in BACKENDS and view.platform in PLATFORMS:
        message = f"{shown(view.platform)} is not a platform of the {view.backend} backend."
        yield view.finding("platform", message, "Leave the platform out.")


def _refused(view: ConfigView) -> Iterator[Finding]:
    for name, (why, cure) in REFUSED.items():
        if name in view.present:
            yield view.finding(name, why, cure)


def _files(view: ConfigView, backend: Backend | None, files: Collection[str]) -> Iterator[Finding]:
    filename = view.default_model_filename
    tops = [path.partition("/")[0] for path in files] if backend and backend.folder else files
    if filename:
        fault = _plain_fault(filename)
        if fault:
            cure = "Name a file of the version, without folders."
            yield view.finding("default_model_filename", fault, cure)
        elif filename not in tops:
            message = f"{shown(filename)} is not among the version's files."
            cure = "Push that file too, or name one that is there."
            yield view.finding("default_model_filename", message, cure)
    for named in view.files:
        yield _named_file(view, named)


def _named_file(view: ConfigView, named: NamedFile) -> Finding:
    path = f"{named.folder}/{named.path}" if named.folder else named.path
    message = (
        f"Triton looks for {shown(path)} beside the numbered folder, and every file of a version "
        "lies within it."
    )
    cure = "Leave it out: zero_data or random_data warm up, and clients can map labels."
    return view.finding(named.place, message, cure)


def _plain_fault(path: str) -> str | None:
    fault = path_fault(path)
    if fault:
        return f"The name {fault}."
    if "/" in path:
        return f"{shown(path)} has folders in it."
    return None


def _parameters(view: ConfigView, backend: Backend) -> Iterator[Finding]:
    for each in view.parameters:
        folded = each.key.strip().upper()
        if folded in _REFUSED_PARAMETERS:
            why, cure = _REFUSED_PARAMETERS[folded]
            yield view.finding(each.place, f"{shown(each.key)} is refused: {why}", cure)
        elif backend.free and not folded.startswith(("TRITON_", "EXECUTION_ENV")):
            yield from _text_bound(view, each)
        elif each.key not in backend.parameters:
            allowed = ", ".join(sorted(backend.parameters)) or "none"
            message = f"{shown(each.key)} is no parameter that the {backend.name} backend may get."
            yield view.finding(each.place, message, f"Leave it out; allowed: {allowed}.")
        else:
            yield from _text_bound(view, each)


def _text_bound(view: ConfigView, parameter: Parameter) -> Iterator[Finding]:
    if len(parameter.key) > MAX_TEXT or len(parameter.value) > 16 * MAX_TEXT:
        message = f"The parameter {shown(parameter.key)} is too long."
        cure = f"A key has at most {MAX_TEXT} characters, a value {16 * MAX_TEXT}."
        yield view.finding(parameter.place, message, cure)


def _accelerators(view: ConfigView, backend: Backend) -> Iterator[Finding]:
    for each in view.accelerators:
        allowed = backend.accelerators.get(each.name)
        if allowed is None:
            names = ", ".join(sorted(backend.accelerators)) or "none"
            message = f"{shown(each.name)} is no accelerator of the {backend.name} backend."
            yield view.finding(f"{each.place}.name", message, f"Leave it out; allowed: {names}.")
            continue
        for parameter in each.parameters:
            if parameter.key not in allowed:
                yield view.finding(
                    parameter.place,
                    f"{shown(parameter.key)} may not be given to {each.name}: what is not on the "
                    "list reads or writes paths of the server, or loads libraries.",
                    f"Leave it out; allowed: {', '.join(sorted(allowed)) or 'none'}.",
                )


def _ensemble(
    view: ConfigView, model_name: str, known_models: Collection[str] | None
) -> Iterator[Finding]:
    place = "ensemble_scheduling"
    if (view.platform == ENSEMBLE) != (place in view.present):
        message = "Only an ensemble has ensemble_scheduling, and each ensemble has one."
        cure = 'Write platform: "ensemble" and the steps, or neither.'
        yield view.finding(place if place in view.present else "platform", message, cure)
    elif view.platform == ENSEMBLE and not view.steps:
        yield view.finding(place, "The ensemble has no steps.", "Name a model in each step.")
    for step in view.steps:
        where = f"{step.place}.model_name"
        if step.namespace:
            cure = "Leave model_namespace out."
            yield view.finding(f"{step.place}.model_namespace", "Sites have no namespaces.", cure)
        if step.model_version < 1 and step.model_version != -1:
            message = f"{step.model_version} is no version."
            cure = "Write a number from 1, or -1 for the one that serves."
            yield view.finding(f"{step.place}.model_version", message, cure)
        if step.model_name in ("", model_name):
            yield view.finding(where, "A step names no other model.", "Name a registered model.")
        elif known_models is None:
            message = f"Whether {shown(step.model_name)} is registered is not known here."
            yield view.finding(where, message, "Nothing to do if it is.", Level.WARNING)
        elif step.model_name not in known_models:
            message = f"There is no model {shown(step.model_name)} that this one may use."
            yield view.finding(where, message, "Register that model first, or name another.")


def _without_effect(view: ConfigView) -> Iterator[Finding]:
    if "version_policy" in view.present:
        message = "The site's agent sets which version serves; what stands here has no effect."
        yield view.finding("version_policy", message, "Leave it out.", Level.WARNING)
