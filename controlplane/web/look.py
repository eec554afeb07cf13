"""How a state looks: always a word and a glyph beside the colour, the same on every page."""

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.catalog.models import ImportState, VersionState
from controlplane.domain.fit_facts import Answer
from controlplane.domain.gates import Verdict
from controlplane.domain.health import SiteHealth
from controlplane.domain.rollout import DeploymentState, RolloutState, StageState, WaitsFor
from controlplane.domain.signals import SignalState


@dataclass(frozen=True, kw_only=True)
class Look:
    """`tone` is one of good, bad, warn, busy, idle; `icon` names a glyph of icons.svg."""

    word: str
    tone: str
    icon: str


def _look(tone: str, icon: str, word: str = "") -> Look:
    return Look(word=word, tone=tone, icon=icon)


R, S, D, H = RolloutState, StageState, DeploymentState, SiteHealth

_ROLLOUT: Mapping[str, Look] = {
    R.QUEUED: _look("idle", "queue"),
    R.PLANNED: _look("idle", "clock"),
    R.RUNNING: _look("busy", "play"),
    R.PAUSED: _look("warn", "pause"),
    R.CANCELLING: _look("warn", "stop", "aborting"),
    R.CANCELLED: _look("idle", "stop"),
    R.ROLLING_BACK: _look("warn", "undo"),
    R.ROLLED_BACK: _look("warn", "undo"),
    R.ROLLBACK_INCOMPLETE: _look("bad", "cross"),
    R.SUPERSEDED: _look("idle", "forward"),
    R.SUCCEEDED: _look("good", "check"),
    R.SUCCEEDED_WITH_EXCEPTIONS: _look("warn", "check"),
}
_STAGE: Mapping[str, Look] = {
    S.PENDING: _look("idle", "clock", "waiting"),
    S.RUNNING: _look("busy", "play"),
    S.SOAKING: _look("busy", "drop"),
    S.PASSED: _look("good", "check"),
    S.FAILED: _look("bad", "cross"),
    S.SKIPPED: _look("idle", "dash"),
    S.CANCELLED: _look("idle", "stop"),
}
_DEPLOYMENT: Mapping[str, Look] = {
    D.PENDING: _look("idle", "clock", "waiting"),
    D.OFFERED: _look("busy", "play"),
    D.STAGING: _look("busy", "play", "downloading"),
    D.STAGED: _look("busy", "play", "on disk"),
    D.PROVING: _look("busy", "play"),
    D.ACTIVATING: _look("busy", "play", "switching"),
    D.VERIFYING: _look("busy", "play"),
    D.SUCCEEDED: _look("good", "check", "verified"),
    D.FAILED: _look("bad", "cross"),
    D.TIMED_OUT: _look("bad", "clock"),
    D.DEFERRED: _look("idle", "queue", "put off"),
    D.REJECTED: _look("warn", "cross", "other hardware"),
    D.REMOVED: _look("idle", "dash", "site retired"),
    D.CANCELLED: _look("idle", "stop"),
    D.ROLLED_BACK: _look("good", "undo", "returned"),
    D.ROLLBACK_FAILED: _look("bad", "cross", "could not return"),
}
_HEALTH: Mapping[str, Look] = {
    H.HEALTHY: _look("good", "check"),
    H.UPDATING: _look("busy", "play"),
    H.DEGRADED: _look("bad", "cross"),
    H.STALE: _look("warn", "alert"),
    H.NEW: _look("idle", "plus", "not joined"),
}
_SIGNAL: Mapping[str, Look] = {
    SignalState.GOOD: _look("good", "check"),
    SignalState.BAD: _look("bad", "cross"),
    SignalState.STALE: _look("warn", "alert"),
    SignalState.UNKNOWN: _look("idle", "dash", "not known"),
}
_DIFFERENCE: Mapping[str, Look] = {
    "equal": _look("good", "check"),
    "moving": _look("busy", "play"),
    "behind": _look("warn", "alert"),
    "ahead": _look("warn", "alert"),
    "failed": _look("bad", "cross"),
    "unknown": _look("idle", "dash"),
}
_VERSION: Mapping[str, Look] = {
    VersionState.UPLOADING: _look("busy", "play"),
    VersionState.REGISTERED: _look("warn", "clock"),
    VersionState.VALIDATED: _look("warn", "user"),
    VersionState.APPROVED: _look("good", "check"),
    VersionState.RETIRED: _look("idle", "dash"),
    VersionState.QUARANTINED: _look("bad", "stop"),
}
_WAITS: Mapping[str, Look] = {
    WaitsFor.PERSON: _look("warn", "user", "waits for a person"),
    WaitsFor.SITES: _look("busy", "pin", "waits for sites"),
    WaitsFor.TIME: _look("idle", "clock", "waits for time to pass"),
    WaitsFor.ENGINE: _look("idle", "stairs", "waits for the engine"),
    WaitsFor.NOTHING: _look("idle", "dash", "waits for nothing"),
}
_VERDICT: Mapping[str, Look] = {
    Verdict.PASS: _look("good", "check", "passes"),
    Verdict.FAIL: _look("bad", "cross", "fails"),
    Verdict.INCONCLUSIVE: _look("warn", "alert"),
    Verdict.ERROR: _look("warn", "alert", "could not measure"),
}
_FIT: Mapping[str, Look] = {
    Answer.OK: _look("good", "check", "fits"),
    Answer.UNKNOWN: _look("warn", "alert", "fits as far as is known"),
    Answer.NO: _look("bad", "cross", "cannot take it"),
}
_IMPORT: Mapping[str, Look] = {
    ImportState.PENDING: _look("idle", "clock", "waits for its turn"),
    ImportState.IMPORTING: _look("busy", "play"),
    ImportState.IMPORTED: _look("good", "check"),
    ImportState.FAILED: _look("bad", "cross"),
}
_MACHINE: Mapping[str, Look] = {
    "live": _look("good", "check", "works"),
    "expired": _look("idle", "clock", "ended"),
    "revoked": _look("bad", "stop"),
}
KINDS: Mapping[str, Mapping[str, Look]] = {
    "rollout": _ROLLOUT,
    "stage": _STAGE,
    "deployment": _DEPLOYMENT,
    "health": _HEALTH,
    "signal": _SIGNAL,
    "difference": _DIFFERENCE,
    "version": _VERSION,
    "waits": _WAITS,
    "verdict": _VERDICT,
    "fit": _FIT,
    "import": _IMPORT,
    "machine": _MACHINE,
}


def look_of(kind: str, state: str) -> Look:
    """The look of a state, with its word. Raises `KeyError` for one that does not exist."""
    look = KINDS[kind][state]
    return Look(word=look.word or state.replace("_", " "), tone=look.tone, icon=look.icon)
