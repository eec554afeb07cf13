"""`waypost push`: the command's options, its progress and its result."""

import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from waypost_cli.bundle import Bundle, LocalFile, looks_like_repository, read_bundle
from waypost_cli.ci_origin import lineage_of
from waypost_cli.dry_run import dry_run as try_push
from waypost_cli.dry_run import findings_junit
from waypost_cli.durations import parse_seconds
from waypost_cli.errors import CliError
from waypost_cli.labels import parse_labels
from waypost_cli.onnx_config import write_config
from waypost_cli.output import Output, OutputFormat, add_row, make_table
from waypost_cli.push import PARALLEL_UPLOADS, Pushed, push
from waypost_cli.push_wait import end_as_decided, wait_for_approval
from waypost_cli.session import Session, connected
from waypost_cli.sign_command import SignatureOption, SignKeyOption, attach, signature_of
from waypost_cli.variants_file import has_variants

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def _origin(name: str, what: str) -> Any:
    """An option that a CI system's own variables fill in where they can."""
    return typer.Option(name, help=what, metavar="TEXT", rich_help_panel="Where it comes from")


@connected(junit=True)
def push_command(
    session: Session,
    model: Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")],
    directory: Annotated[
        Path,
        typer.Argument(
            help="Folder with config.pbtxt, golden.json and the model's files.", metavar="DIR"
        ),
    ],
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            help="Number to push as. Without it: the next free one, or the one that already has"
            " these very bytes.",
            metavar="N",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="Label of the version, key=value; repeatable."),
    ] = None,
    requires: Annotated[
        Path | None,
        typer.Option(
            "--requires",
            help="JSON file with what the version asks of machines: accelerator_memory_bytes,"
            " memory_bytes, compute_capability, triton, backends. Part of the version.",
            metavar="FILE",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Name everything that is wrong, here and at the control plane; keep nothing.",
        ),
    ] = False,
    generate_config: Annotated[
        bool,
        typer.Option(
            "--generate-config",
            help="Write config.pbtxt into DIR from the signature of its one .onnx file, if there is"
            " none.",
        ),
    ] = False,
    max_batch_size: Annotated[
        int, typer.Option(help="With --generate-config.", metavar="N", min=0, max=1 << 20)
    ] = 0,
    parallel: Annotated[
        int, typer.Option("--parallel", help="How many transfers at once.", min=1, max=32)
    ] = PARALLEL_UPLOADS,
    notes: Annotated[
        str | None, typer.Option("--notes", help="Notes on the version.", metavar="TEXT")
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until the version is approved; status 3 if it is not."),
    ] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long --wait waits, such as 90s, 30m, 2h.")
    ] = "30m",
    git_repository: Annotated[
        str | None, _origin("--git-repository", "Repository it was made from.")
    ] = None,
    git_commit: Annotated[str | None, _origin("--git-commit", "Commit it was made from.")] = None,
    ci_run: Annotated[str | None, _origin("--ci-run", "Address of the CI run.")] = None,
    mlflow_run: Annotated[str | None, _origin("--mlflow-run", "MLflow run that made it.")] = None,
    dataset: Annotated[str | None, _origin("--dataset", "What it was trained on.")] = None,
    signature: SignatureOption = None,
    sign_key: SignKeyOption = None,
) -> None:
    """Register a folder as a version of a model. Sends only what the control plane lacks."""
    if not _MODEL.fullmatch(model):
        raise CliError(
            f"{model!r} is not a name for a model",
            cure="use 1 to 64 of A-Z a-z 0-9 _ - that begin with a letter or digit",
        )
    if version is not None and not _VERSION.fullmatch(version):
        raise CliError(
            f"{version!r} is not a version number", cure="use a whole number from 1, such as 3"
        )
    labels = parse_labels(label or [])
    patience = parse_seconds(timeout)
    output = session.output
    lineage = lineage_of(
        {
            "git_repository": git_repository,
            "git_commit": git_commit,
            "ci_run": ci_run,
            "mlflow_run": mlflow_run,
            "dataset": dataset,
        },
        os.environ,
    )
    if generate_config:
        _generate(output, directory, model, max_batch_size)
    if dry_run:
        try_push(
            session.api,
            output,
            model=model,
            version=version,
            directory=directory,
            labels=labels,
            lineage=lineage,
            requires={} if requires is None else _read_requires(requires),
        )
        return
    signed = signature_of(directory, signature, sign_key)
    output.say(f"reading {directory}")
    asked = {} if requires is None else _read_requires(requires)
    bundle = replace(read_bundle(directory), requires=asked)
    _warn_of_layout(output, bundle)
    output.say(f"{_files(len(bundle.files))}, {format_bytes(bundle.size_bytes)}")
    with PushProgress(output) as progress:
        pushed = push(
            session.api,
            model=model,
            version=version,
            bundle=bundle,
            labels=labels,
            lineage=lineage,
            parallel=parallel,
            observer=progress,
        )
    number = str(pushed.document.get("version"))
    if notes is not None:
        session.api.change_version(model, number, {"notes": notes})
    if signed is not None:
        attach(session.api, output, model=model, version=number, signature=signed(bundle))
    if signed is not None or wait:
        state = session.api.get_version(model, number)
        if wait:
            state = wait_for_approval(session, model, number, seconds=patience)
        pushed = replace(pushed, document=state)
    _show(output, model=model, bundle=bundle, pushed=pushed)
    if wait:
        end_as_decided(output, pushed.document)


def _generate(output: Output, directory: Path, model: str, max_batch_size: int) -> None:
    if has_variants(directory):
        raise CliError(
            "--generate-config is for a folder of one build", cure="write one into each build"
        )
    made = write_config(directory, model=model, max_batch_size=max_batch_size)
    output.say(f"wrote {made}" if made else "config.pbtxt is there already and is taken as it is")


class PushProgress:
    """A bar where a person watches, else a line for each file. Called from several threads."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._expected_files = 0
        self._done_files = 0
        self._bar = Progress(
            TextColumn("uploading"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=output.stderr,
            transient=True,
            disable=not output.live,
        )
        self._task = self._bar.add_task("uploading", total=0)

    def __enter__(self) -> "PushProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def uploading(self, files: int, size_bytes: int) -> None:
        with self._lock:
            self._expected_files += files
            self._bar.reset(self._task, total=size_bytes)

    def sent(self, size_bytes: int) -> None:
        self._bar.advance(self._task, size_bytes)

    def uploaded(self, file: LocalFile) -> None:
        with self._lock:
            self._done_files += 1
            count = f"{self._done_files}/{self._expected_files}"
            self._output.say(f"uploaded {count} {file.path} ({format_bytes(file.size)})")


def _read_requires(path: Path) -> dict[str, object]:
    """What is in it, the control plane judges."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CliError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise CliError(
            f"{path} does not hold a JSON object", cure='write {"memory_bytes": 2000000000}'
        )
    return document


def format_bytes(size_bytes: int) -> str:
    """In the largest binary unit that leaves at least 1."""
    amount, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{size_bytes} B" if unit == "B" else f"{amount:.1f} {unit}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _warn_of_layout(output: Output, bundle: Bundle) -> None:
    numbered = looks_like_repository(bundle)
    if numbered:
        output.warn(
            f"every model file lies in {numbered}/, as in a Triton repository; Waypost makes the"
            f" numbered folder itself, so Triton will look for them in VERSION/{numbered}/."
            " Put them beside config.pbtxt if that is not meant"
        )


def _show(output: Output, *, model: str, bundle: Bundle, pushed: Pushed) -> None:
    number = pushed.document.get("version")
    result = {
        "model": model,
        "version": str(number),
        "state": pushed.document.get("state"),
        "manifest_digest": pushed.document.get("manifest_digest"),
        "files": len(bundle.files),
        "size_bytes": bundle.size_bytes,
        "uploaded_files": pushed.uploaded_files,
        "uploaded_bytes": pushed.uploaded_bytes,
        "already_registered": pushed.already,
    }
    if pushed.already:
        output.say(
            f"{model} version {number} already has exactly these bytes: nothing was sent, nothing"
            " changed"
        )
    else:
        reused = bundle.size_bytes - pushed.uploaded_bytes
        output.say(
            f"{model} version {number} is {result['state']}: sent {_files(pushed.uploaded_files)},"
            f" {format_bytes(pushed.uploaded_bytes)}; {format_bytes(reused)} were there already"
        )
    if output.format is OutputFormat.JSON:
        output.document(result)
        return
    if output.format is OutputFormat.JUNIT:
        output.raw(findings_junit(f"{model} version {number}", []))
        return
    table = make_table("model", "version", "state", "files", "size", "manifest")
    size = format_bytes(bundle.size_bytes)
    cells = (model, number, result["state"], result["files"], size, result["manifest_digest"])
    add_row(table, cells)
    output.table(table)
