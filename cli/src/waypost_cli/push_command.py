"""`waypost push`: the command's options, its progress and its result."""

import re
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from waypost_cli.bundle import Bundle, LocalFile, looks_like_repository, read_bundle
from waypost_cli.errors import CliError
from waypost_cli.labels import parse_labels
from waypost_cli.output import Output, OutputFormat, add_row, make_table
from waypost_cli.push import Pushed, push
from waypost_cli.session import Session, connected

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@connected()
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
    output = session.output
    output.say(f"reading {directory}")
    bundle = read_bundle(directory)
    _warn_of_layout(output, bundle)
    output.say(f"{_files(len(bundle.files))}, {format_bytes(bundle.size_bytes)}")
    with PushProgress(output) as progress:
        pushed = push(
            session.api,
            model=model,
            version=version,
            bundle=bundle,
            labels=labels,
            observer=progress,
        )
    _show(output, model=model, bundle=bundle, pushed=pushed)


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
            f"{model} version {number} is registered: sent {_files(pushed.uploaded_files)},"
            f" {format_bytes(pushed.uploaded_bytes)}; {format_bytes(reused)} were there already"
        )
    if output.format is OutputFormat.JSON:
        output.document(result)
        return
    table = make_table("model", "version", "state", "files", "size", "manifest")
    size = format_bytes(bundle.size_bytes)
    cells = (model, number, result["state"], result["files"], size, result["manifest_digest"])
    add_row(table, cells)
    output.table(table)
