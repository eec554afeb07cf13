"""A rollout as JUnit XML, one test case for each site. Decides what passes, fails or was skipped;
it must not know where the text goes."""

import re
import xml.etree.ElementTree as ElementTree

from waypost_cli.rollout import Deployment, Rollout, Stage

# What XML 1.0 cannot hold even escaped (W3C XML 1.0, section 2.2).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FAILED = ("failed", "timed_out", "rejected", "rolled_back", "rollback_failed")
# Left the rollout for another reason than the version: neither a success nor a failure.
_LEFT = ("cancelled", "deferred", "removed")


def junit_xml(rollout: Rollout, *, timed_out: bool = False) -> str:
    """A whole document. With `timed_out`, a site that is not done is an error, else skipped."""
    suite = ElementTree.Element("testsuite", name=_safe(_title(rollout)))
    for stage in rollout.stages:
        for site in stage.site_names:
            deployments = [d for d in stage.deployments if d.site == site]
            _add_case(suite, stage, site, deployments, timed_out=timed_out)
    for site, reason in rollout.excluded:
        case = ElementTree.SubElement(suite, "testcase", name=_safe(site), classname="excluded")
        ElementTree.SubElement(case, "skipped", message=_safe(reason or "excluded"))
    _add_counts(suite)
    properties = ElementTree.Element("properties")
    for name in ("state", "reason_code", "reason"):
        value = _safe(str(getattr(rollout, name)))
        ElementTree.SubElement(properties, "property", name=name, value=value)
    suite.insert(0, properties)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode")


def _title(rollout: Rollout) -> str:
    return f"rollout {rollout.id}: {rollout.model} version {rollout.version}"


def _add_case(
    suite: ElementTree.Element,
    stage: Stage,
    site: str,
    deployments: list[Deployment],
    *,
    timed_out: bool,
) -> None:
    case = ElementTree.SubElement(suite, "testcase", name=_safe(site), classname=_safe(stage.name))
    known = [d.seconds for d in deployments if d.seconds is not None]
    case.set("time", f"{sum(known):.3f}")
    turned_back = [d for d in deployments if d.state in _FAILED or d.kind == "rollback"]
    if turned_back:
        _add_verdict(case, "failure", turned_back[0])
        return
    open_ones = [d for d in deployments if d.state != "succeeded"]
    if deployments and not open_ones:
        return
    left = any(d.state in _LEFT for d in open_ones)
    kind = "error" if timed_out and not left else "skipped"
    if open_ones:
        _add_verdict(case, kind, open_ones[0])
    else:
        message = f"not started; the stage is {stage.state}"
        ElementTree.SubElement(case, kind, message=_safe(message))


def _add_verdict(case: ElementTree.Element, kind: str, deployment: Deployment) -> None:
    state = f"rollback {deployment.state}" if deployment.kind == "rollback" else deployment.state
    message = ": ".join(part for part in (state, deployment.reason) if part)
    verdict = ElementTree.SubElement(case, kind, message=_safe(message))
    if kind != "skipped":
        verdict.set("type", _safe(deployment.reason_code or deployment.state))


def _add_counts(suite: ElementTree.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{kind}"))))
    suite.set("time", f"{sum(float(case.get('time', '0')) for case in cases):.3f}")


def _safe(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
