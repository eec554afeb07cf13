"""`waypost push --dry-run`: everything that is wrong with a folder, at once, from what this machine
sees and from what the control plane would say. Sends the manifest and two small texts, keeps
nothing."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from waypost_cli.api import Api, Document
from waypost_cli.bundle import CONFIG_FILE, GOLDEN_FILE, Bundle, LocalFile, read_bundle, survey
from waypost_cli.errors import ApiError, CliError, ExitCode, Finished
from waypost_cli.output import Output, OutputFormat, add_row, make_table
from waypost_cli.variants_file import has_variants

# What the control plane judges of them is no longer; a body has its limit too.
_MAX_TEXT_BYTES = 1 << 20
_TEXTS = (CONFIG_FILE, GOLDEN_FILE)
FAULT, WARNING = "fault", "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault or warning; `line` from 1."""

    level: str
    file: str
    message: str
    line: int | None = None
    field: str = ""
    cure: str = ""

    @property
    def is_fault(self) -> bool:
        """A level that this CLI does not know is no reason to call the folder right."""
        return self.level != WARNING

    @property
    def place(self) -> str:
        line = f":{self.line}" if self.line else ""
        return " ".join(part for part in (self.file + line, self.field) if part)


def dry_run(
    api: Api,
    output: Output,
    *,
    model: str,
    version: str | None,
    directory: Path,
    labels: Mapping[str, str],
    lineage: Document,
    requires: Mapping[str, object],
) -> None:
    """Shows what was found; ends the command with status 1 when something is wrong."""
    bundle, here = _look(directory, requires)
    told: Document = {}
    there: list[Finding] = []
    if bundle is not None and bundle.files:
        try:
            told = api.try_version(
                model=model,
                version=version,
                manifest=bundle.manifest(),
                labels=labels,
                lineage=lineage,
                texts=_texts(bundle.files),
            )
            there = _findings(told)
        except ApiError as error:
            there = [_refusal(line) for line in (error.details or (error.message,))]
    known = {finding.file for finding in there}
    findings = [each for each in here if each.file not in known or each.file not in _TEXTS]
    findings += there
    _show(output, model=model, findings=findings, told=told)
    if any(finding.is_fault for finding in findings):
        raise Finished(ExitCode.ERROR)


def _look(directory: Path, requires: Mapping[str, object]) -> tuple[Bundle | None, list[Finding]]:
    if not directory.is_dir():
        raise CliError(f"{directory} is not a folder")
    if not has_variants(directory):
        files, faults = survey(directory)
        return Bundle(files=files, requires=requires), [_local(fault) for fault in faults]
    try:
        return read_bundle(directory), []
    except CliError as error:
        return None, [_local(line) for line in (error.details or (error.message,))]


def _local(fault: str) -> Finding:
    file, found, message = fault.partition(": ")
    if not found:
        return Finding(level=FAULT, file="", message=fault)
    return Finding(level=FAULT, file=file, message=message)


def _refusal(line: str) -> Finding:
    field, found, message = line.partition(": ")
    if not found:
        return Finding(level=FAULT, file="", message=line)
    return Finding(level=FAULT, file="", field=field, message=message)


def _texts(files: Sequence[LocalFile]) -> dict[str, str]:
    found = {}
    for file in files:
        if file.path.rpartition("/")[2] in _TEXTS and file.size <= _MAX_TEXT_BYTES:
            raw = b"".join(file.chunks(lambda size: None))
            found[file.path] = raw.decode(errors="replace")
    return found


def _findings(told: Document) -> list[Finding]:
    rows = told.get("findings")
    if not isinstance(rows, list):
        raise CliError(
            "the control plane did not answer a dry run",
            cure="check that this waypost and the control plane are of the same time",
        )
    findings = [
        Finding(
            level=str(row.get("level", FAULT)),
            file=str(row.get("file", "")),
            line=row["line"] if isinstance(row.get("line"), int) else None,
            field=str(row.get("field", "")),
            message=str(row.get("message", "")),
            cure=str(row.get("cure", "")),
        )
        for row in rows
        if isinstance(row, Mapping)
    ]
    conflict = told.get("conflict")
    if isinstance(conflict, Mapping):
        message = str(conflict.get("detail", conflict.get("code", "")))
        findings.append(Finding(level=FAULT, file="", field="version", message=message))
    return findings


def _show(output: Output, *, model: str, findings: list[Finding], told: Document) -> None:
    faults = [finding for finding in findings if finding.is_fault]
    would = str(told.get("would", "unknown"))
    if output.format is OutputFormat.JSON:
        rest = {key: value for key, value in told.items() if key != "findings"}
        output.document({**rest, "model": model, "findings": [asdict(each) for each in findings]})
    elif output.format is OutputFormat.JUNIT:
        output.raw(findings_junit(model, findings))
    elif findings:
        table = make_table("level", "where", "what is wrong", "cure")
        for each in findings:
            add_row(table, (each.level, each.place, each.message, each.cure))
        output.table(table)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        output.say(f"{count}; nothing was sent or kept")
    else:
        output.say(f"nothing is wrong; a push would be: {would}")


def findings_junit(model: str, findings: Sequence[Finding]) -> str:
    """A whole document: a case for each finding, one that passes where there is none."""
    faults = [each for each in findings if each.is_fault]
    suite = ElementTree.Element(
        "testsuite", name=f"push {model}", tests=str(max(len(findings), 1)),
        failures=str(len(faults)), errors="0", skipped=str(len(findings) - len(faults)),
    )  # fmt: skip
    if not findings:
        ElementTree.SubElement(suite, "testcase", name="push", classname=model)
    for each in findings:
        case = ElementTree.SubElement(
            suite, "testcase", name=each.place or "version", classname=model
        )
        kind = "failure" if each.is_fault else "skipped"
        ElementTree.SubElement(case, kind, message=" ".join((each.message, each.cure)).strip())
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode")
