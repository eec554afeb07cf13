"""`waypost push --wait`: looks at a version until a person has decided, and says how it ended."""

import time
from collections.abc import Mapping

from waypost_cli.api import Document
from waypost_cli.errors import ExitCode, Finished
from waypost_cli.output import Output
from waypost_cli.session import Session

_UNDECIDED = ("uploading", "registered", "validated")
LOOK_SECONDS = 5.0


def wait_for_approval(session: Session, model: str, number: str, *, seconds: float) -> Document:
    """The version when a person has decided, or when the time is over."""
    session.output.say(f"waiting until {model} version {number} is approved")
    end = time.monotonic() + seconds
    while True:
        document = session.api.get_version(model, number)
        if document.get("state") not in _UNDECIDED or time.monotonic() >= end:
            return document
        time.sleep(min(LOOK_SECONDS, max(end - time.monotonic(), 0.0)))


def end_as_decided(output: Output, version: Mapping[str, object]) -> None:
    """Ends the command with status 3 where nobody decided, 1 where it was decided against."""
    state = version.get("state")
    if state == "approved":
        return
    if state in _UNDECIDED:
        output.warn(f"it is {state} still: nobody decided in time")
        raise Finished(ExitCode.TIMED_OUT)
    output.warn(f"it is {state}: {version.get('state_reason') or 'no reason given'}")
    raise Finished(ExitCode.ERROR)
