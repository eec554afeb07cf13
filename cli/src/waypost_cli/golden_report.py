"""How a replay of golden requests is shown: as a table, JSON or JUnit XML. Judges nothing."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from waypost_cli.output import Output, OutputFormat, add_row, make_table

# What XML 1.0 cannot hold even escaped (W3C XML 1.0, section 2.2).
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One output of one request, or with the output "" the request itself. `fault` is empty where
    it passes; `off_by` says by how much, also then."""

    request: str
    output: str
    tolerance: str
    off_by: str
    fault: str
    seconds: float

    @property
    def document(self) -> dict[str, object]:
        return {
            "request": self.request,
            "output": self.output or None,
            "outcome": "fails" if self.fault else "passes",
            "tolerance": self.tolerance or None,
            "off_by": self.off_by or None,
            "fault": self.fault or None,
        }


def show(output: Output, lines: Sequence[Line], *, path: str) -> None:
    failed = sum(1 for line in lines if line.fault)
    if output.format is OutputFormat.JSON:
        results = [line.document for line in lines]
        outcome = "fails" if failed else "passes"
        output.document({"golden": path, "outcome": outcome, "results": results})
        return
    if output.format is OutputFormat.JUNIT:
        output.raw(_junit(lines, path))
        return
    table = make_table("request", "output", "outcome", "off by", "tolerance", "why")
    for line in lines:
        outcome = "FAILS" if line.fault else "passes"
        cells = [line.request, line.output, outcome, line.off_by, line.tolerance, line.fault]
        add_row(table, cells)
    output.table(table)
    output.say(f"{len(lines) - failed} of {len(lines)} passed")


def _junit(lines: Sequence[Line], path: str) -> str:
    suite = ElementTree.Element("testsuite", name=_safe(f"golden requests of {path}"))
    suite.set("tests", str(len(lines)))
    suite.set("failures", str(sum(1 for line in lines if line.fault)))
    suite.set("errors", "0")
    suite.set("skipped", "0")
    for line in lines:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_safe(line.request), name=_safe(line.output or "request")
        )
        case.set("time", f"{line.seconds:.3f}")
        if line.fault:
            message = f"{line.fault}; off by {line.off_by}" if line.off_by else line.fault
            ElementTree.SubElement(case, "failure", type="golden-mismatch", message=_safe(message))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode")


def _safe(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
