"""The two kinds of failure an agent knows, and the codes that reports carry.

`Retryable` may pass by itself: it is tried again, later and later. `Permanent` will not: it is
reported as failed and not tried again until the centre wishes anew.
"""

from __future__ import annotations

# The stable codes of docs/agent-protocol.md, section 5.
OK = "ok"
DIGEST_MISMATCH = "digest-mismatch"
GOLDEN_MISMATCH = "golden-mismatch"
LOAD_FAILED = "load-failed"
LOAD_TIMEOUT = "load-timeout"
CONFIG_INVALID = "config-invalid"
MANIFEST_INVALID = "manifest-invalid"
DISK_FULL = "disk-full"
DOWNLOAD_FAILED = "download-failed"
WINDOW_CLOSED = "window-closed"
TRITON_UNREACHABLE = "triton-unreachable"
CANDIDATE_FAILED = "candidate-failed"
RESTORE_FAILED = "restore-failed"
SERVER_BEHIND = "server-behind"
ANSWER_INVALID = "answer-invalid"
VERSION_CONFLICT = "version-conflict"
UNLOAD_TIMEOUT = "unload-timeout"
STORE_FAILED = "store-failed"
LEASE_UNREACHABLE = "lease-unreachable"
LEASE_LAPSED = "lease-lapsed"
WISH_SUPERSEDED = "wish-superseded"
ROLLED_BACK = "rolled-back-locally"
NO_SERVER = "no-server"
REPLACING = "replacing"
PROBATION_FAILED = "probation-failed"
MEMORY_INSUFFICIENT = "memory-insufficient"
HARDWARE_INCOMPATIBLE = "hardware-incompatible"
TRITON_TOO_OLD = "triton-too-old"
BACKEND_MISSING = "backend-missing"
EXECUTABLE_REFUSED = "executable-refused"
BUNDLE_REFUSED = "bundle-refused"
SIGNATURE_MISSING = "signature-missing"
SIGNATURE_INVALID = "signature-invalid"
STOPPING = "stopping"
DRIFT = "drift"
PROBATION = "probation"
WORKING = "working"
# By them a site's own rules refuse a version.
RULE_CODES = frozenset({EXECUTABLE_REFUSED, BUNDLE_REFUSED, SIGNATURE_MISSING, SIGNATURE_INVALID})


class AgentError(Exception):
    """A failure with a stable `code` and one sentence for an operator."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Retryable(AgentError):
    """It may pass: the same step is tried again after a pause, not before `after_seconds`."""

    def __init__(self, code: str, reason: str, *, after_seconds: float = 0.0) -> None:
        super().__init__(code, reason)
        self.after_seconds = after_seconds


class RangeRefused(Retryable):
    """The source does not give a file from the byte that was asked for; it may give the whole."""


class BlobUnknown(Retryable):
    """The source answered, and does not give this file; another one may."""


class WindowClosed(Retryable):
    """No bytes are fetched at this hour, by the site's own rule; nothing is wrong."""


class LeaseRefused(Retryable):
    """The centre answered: not yet. It is asked again after `retry_seconds`, which it chose."""

    def __init__(self, code: str, reason: str, *, retry_seconds: float) -> None:
        super().__init__(code, reason)
        self.retry_seconds = retry_seconds


class Permanent(AgentError):
    """It will not pass by itself: the version failed at this server."""


class Paused(Exception):
    """A long step stopped at a safe point because something more urgent waits; not a failure."""


class ConfigError(Exception):
    """The agent's own configuration is wrong; the message names the key and what would be right."""


class AnswerError(Exception):
    """An answer of the centre that breaks the protocol. It is refused whole.

    `wish`, when known, is the `(model, epoch, generation, deployment, version)` whose manifest
    was at fault, so that the failure can be reported where it belongs.
    """

    def __init__(
        self,
        reason: str,
        *,
        code: str = ANSWER_INVALID,
        wish: tuple[str, int, int, int | None, str | None] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.wish = wish
