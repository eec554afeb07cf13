"""`waypost golden record` and `waypost golden check`: golden requests from and against a server.

Neither needs a control plane: the server is a reference that already runs, such as a Triton.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from waypost_cli.errors import CliError, ExitCode, Finished
from waypost_cli.golden import difference, fault
from waypost_cli.golden_document import (
    MAX_LATENCY_MS,
    MAX_REQUESTS,
    Golden,
    Request,
    read_golden,
    read_inputs,
    write_whole,
    written,
)
from waypost_cli.golden_random import random_requests
from waypost_cli.golden_recording import Choice, Run, parse_asked, record
from waypost_cli.golden_report import Line, show
from waypost_cli.output import Output, OutputFormat, add_row, make_table
from waypost_cli.reference_server import Answered, ReferenceServer
from waypost_cli.session import GlobalOptions, OutputOption, remember

_MOST_REPEATS = 20
_TRIES = 3  # as a site asks where an answer has to be fast

golden_app = typer.Typer(no_args_is_help=True, help="Record and replay golden requests.")

ServerOption = Annotated[
    str, typer.Option("--url", help="HTTP address of the server.", metavar="http://HOST:8000")
]
VersionOption = Annotated[
    str | None, typer.Option("--version", help="Its version, if not the newest.", metavar="N")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")
]


@golden_app.command("record")
def record_command(
    ctx: typer.Context,
    url: ServerOption,
    model: Annotated[str, typer.Option("--model", help="The model at that server.")],
    out: Annotated[Path, typer.Option("--out", help="Where golden.json goes.", metavar="FILE")],
    version: VersionOption = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--inputs", help="Requests in KServe v2 JSON: a list, or one.", metavar="FILE"
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--random", min=0, max=MAX_REQUESTS, help="So many random requests.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the random requests.")] = 0,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Of a random input.", metavar="INPUT=N,N"),
    ] = None,
    fill: Annotated[
        list[str] | None,
        typer.Option("--fill", help="One value for a random input.", metavar="INPUT=VALUE"),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance",
            help="absolute:A, relative:R or both with a comma, cosine:C, exact, top_k:K.",
            metavar="OUTPUT=KIND:N",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="Leave an output out.", metavar="OUTPUT"),
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option("--max-latency-ms", min=0.001, max=MAX_LATENCY_MS, help="For each request."),
    ] = None,
    repeat: Annotated[
        int, typer.Option("--repeat", min=1, max=_MOST_REPEATS, help="Ask each so often.")
    ] = 3,
    timeout: TimeoutOption = 60.0,
    force: Annotated[bool, typer.Option("--force", help="Write over --out.")] = False,
    output: OutputOption = None,
) -> None:
    """Write golden.json from what a reference server answers; says what tolerance it chose."""
    shown = _output(ctx, output, junit=False)
    if bool(inputs) == bool(count):
        raise CliError(
            "there must be inputs of one sort", cure="give --inputs FILE or --random COUNT"
        )
    asked = dict(parse_asked(each) for each in tolerance or ())
    if out.exists() and not force:
        raise CliError(f"{out} is there already", cure="give --force to write over it")
    with ReferenceServer(url, model=model, version=version, timeout_seconds=timeout) as server:
        requests = (
            read_inputs(inputs)
            if inputs
            else random_requests(
                server.metadata(),
                count=count,
                seed=seed,
                shapes=dict(_shapes(shape or [])),
                fills=dict(_pairs(fill or [], "--fill")),
            )
        )
        runs = [_run(server, request, repeat) for request in requests]
    goldens, choices = record(
        runs, asked=asked, without=without or (), max_latency_ms=max_latency_ms
    )
    write_whole(out, written(goldens), force=force)
    _show_record(shown, out, goldens, choices, repeat)


@golden_app.command("check")
def check_command(
    ctx: typer.Context,
    golden: Annotated[Path, typer.Argument(help="golden.json of a version.", metavar="FILE")],
    url: ServerOption,
    model: Annotated[
        str | None,
        typer.Option("--model", help="If config.pbtxt beside FILE names none, or another."),
    ] = None,
    version: VersionOption = None,
    timeout: TimeoutOption = 60.0,
    output: OutputOption = None,
) -> None:
    """Replay golden.json against a server, and say which output is off by how much."""
    shown = _output(ctx, output, junit=True)
    goldens = read_golden(golden)
    name = model or _name_beside(golden)
    with ReferenceServer(url, model=name, version=version, timeout_seconds=timeout) as server:
        lines = [line for each in goldens for line in _replay(server, each)]
    show(shown, lines, path=str(golden))
    if any(line.fault for line in lines):
        raise Finished(ExitCode.ERROR)


def _output(ctx: typer.Context, given: OutputFormat | None, *, junit: bool) -> Output:
    options = remember(ctx, GlobalOptions(output=given))
    output = Output(options.output or OutputFormat.TABLE)
    if output.format is OutputFormat.JUNIT and not junit:
        raise CliError("--output junit is not for this command", cure="it goes with golden check")
    return output


def _run(server: ReferenceServer, request: Request, repeat: int) -> Run:
    answers = [server.infer(request) for _ in range(repeat)]
    return Run(
        request=request,
        answers=tuple(each.outputs for each in answers),
        fastest_ms=min(each.milliseconds for each in answers),
    )


def _replay(server: ReferenceServer, golden: Golden) -> Iterator[Line]:
    answer = server.infer(golden.request)
    name = golden.request.name
    for expected in golden.outputs:
        want = expected.tensor
        have = answer.outputs.get(want.name)
        is_alike = have is not None and (have.shape, have.datatype) == (want.shape, want.datatype)
        yield Line(
            request=name,
            output=want.name,
            tolerance=str(expected.tolerance),
            off_by=str(difference(want, have)) if have is not None and is_alike else "",
            fault=fault(expected.tolerance, want, have) or "",
            seconds=answer.milliseconds / 1000,
        )
    if golden.max_latency_ms is not None:
        yield _speed(server, golden, golden.max_latency_ms, answer)


def _speed(server: ReferenceServer, golden: Golden, most: float, first: Answered) -> Line:
    fastest, tries = first.milliseconds, 1
    while fastest > most and tries < _TRIES:
        fastest, tries = min(fastest, server.infer(golden.request).milliseconds), tries + 1
    slow = f"took {fastest:.1f} ms, the fastest of {tries}; at most {most:g} ms are allowed"
    return Line(
        request=golden.request.name,
        output="",
        tolerance=f"{most:g} ms",
        off_by="",
        fault=slow if fastest > most else "",
        seconds=fastest / 1000,
    )


def _show_record(
    output: Output, out: Path, goldens: tuple[Golden, ...], choices: tuple[Choice, ...], repeat: int
) -> None:
    if output.format is OutputFormat.JSON:
        outputs = [
            {
                "output": each.output,
                "tolerance": each.tolerance.document,
                "why": each.why,
                "repeats_differ_by": each.repeats,
            }
            for each in choices
        ]
        output.document({"golden": str(out), "requests": len(goldens), "outputs": outputs})
        return
    table = make_table("output", "tolerance", "why", "repeats differ by")
    for each in choices:
        add_row(table, [each.output, str(each.tolerance), each.why, each.repeats])
    output.table(table)
    output.say(f"{out}: {len(goldens)} requests, each asked {repeat} times")


def _shapes(given: list[str]) -> Iterator[tuple[str, list[int]]]:
    for name, sizes in _pairs(given, "--shape"):
        if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", sizes):
            raise CliError(f"--shape {name}={sizes!r:.40} is no shape", cure="write input=1,576")
        yield name, [int(size) for size in sizes.split(",")]


def _pairs(given: list[str], option: str) -> Iterator[tuple[str, str]]:
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise CliError(f"{option} {text!r:.80} is not INPUT=VALUE")
        yield name, value


def _name_beside(golden: Path) -> str:
    cure = "give --model"
    try:
        text = (golden.parent / "config.pbtxt").read_text(errors="replace")
    except OSError as error:
        message = f"which model it is cannot be told: there is no config.pbtxt beside {golden}"
        raise CliError(message, cure=cure) from error
    found = re.search(r'^\s*name\s*:\s*"([^"\\]+)"', text, re.MULTILINE)
    if found is None:
        raise CliError(f"config.pbtxt beside {golden} names no model", cure=cure)
    return found.group(1)
