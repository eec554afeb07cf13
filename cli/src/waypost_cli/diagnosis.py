"""Puts a failed exchange into words: what happened, where, and the one thing that cures it.

It must not send anything, repeat anything, or show the token."""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import httpx2

from waypost_cli.connection import Connection
from waypost_cli.errors import ApiError, CliError, UnavailableError, UnderWayError

_CERTIFICATE_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_HOSTNAME_MISMATCH = 62  # X509_V_ERR_HOSTNAME_MISMATCH
_IP_MISMATCH = 64  # X509_V_ERR_IP_ADDRESS_MISMATCH

_CURE_BY_CODE = {
    "version-exists": "push with another --version, or without it for the next free number",
    "version-not-registered": "push the version to its end first (waypost push)",
    "rollout-selects-no-site": "see which sites there are with `waypost sites`",
    "strategy-unknown": "see which there are with `waypost strategy list`",
    "strategy-retired": "see which there are with `waypost strategy list`",
    "plan-changed": "look at the plan again: `waypost rollout plan`, or `waypost rollout status`",
    "frozen": "lift the freeze (`waypost freeze list`), or use a token with the scope freeze",
    "version-quarantined": "release it (`waypost release`), or take another version",
}
_CURE_BY_STATUS = {
    401: "the token is wrong, expired or revoked: make a new one in the console and set"
    " WAYPOST_TOKEN",
    403: "this token may not do this: use one that has the scope for it",
}


def describe_failure(error: httpx2.TransportError, url: str) -> CliError:
    """For an exchange that brought no answer. `UnavailableError` where waiting may help."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause, url)
        if isinstance(cause, ssl.SSLError):
            return CliError(
                f"{url} does not speak TLS there ({cause.reason or cause})",
                cure="check the port, and whether the URL should begin with http://",
            )
        if isinstance(cause, socket.gaierror):
            return UnavailableError(
                f"the host {urlsplit(url).hostname} is not known",
                cure="check --url (WAYPOST_URL) and this machine's DNS",
            )
        if isinstance(cause, ConnectionRefusedError):
            return UnavailableError(
                f"nothing listens at {url} (connection refused)",
                cure="check --url (WAYPOST_URL), and that the control plane is running",
            )
    if isinstance(error, httpx2.TimeoutException):
        return UnavailableError(
            f"{url} did not answer in time",
            cure="check that this machine may reach it (firewall, VPN, proxy)",
        )
    if isinstance(error, httpx2.RemoteProtocolError):
        return UnavailableError(
            f"{url} closed the connection without an HTTP answer",
            cure="check the port, and whether the URL should begin with https://",
        )
    return UnavailableError(f"the connection to {url} failed: {error}", cure="check the network")


def describe_answer(response: httpx2.Response, connection: Connection) -> object:
    """The JSON of a success, None for one without a body; raises what another answer means."""
    status = response.status_code
    document = _json(response)
    if 200 <= status < 300 and (document is not None or not response.content):
        return document
    if 300 <= status < 400:
        target = response.headers.get("Location", "another address")
        raise CliError(
            f"{connection.url} redirects to {target}",
            cure="if that is your control plane, give its address as --url; if it is a login"
            " page, this network wants a login first",
        )
    if status >= 400 and isinstance(document, Mapping) and "code" in document:
        raise _problem(status, document, response, connection.token)
    raise _not_ours(response, connection.url)


def _json(response: httpx2.Response) -> object:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _problem(
    status: int, document: Mapping[str, object], response: httpx2.Response, token: str
) -> CliError:
    def said(value: object) -> str:
        return str(value).replace(token, "[token]")

    code = said(document["code"])
    title, detail = said(document.get("title") or f"HTTP {status}"), document.get("detail")
    message = f"{title}: {said(detail)}" if detail else title
    request_id = document.get("request_id") or response.headers.get("X-Request-ID") or "unknown"
    details = [said(line) for line in _field_lines(document.get("errors"))]
    details.append(f"code {code}, request id {said(request_id)}")
    cure = _cure(status, code, document)
    under_way = code == "call-under-way"
    if under_way or status == 429 or status >= 500:
        return (UnderWayError if under_way else UnavailableError)(
            message,
            details=details,
            cure=cure,
            answered=True,
            retry_after_seconds=_retry_after_seconds(response),
        )
    return ApiError(message, status=status, code=code, extra=document, details=details, cure=cure)


def _field_lines(errors: object) -> Iterator[str]:
    for entry in errors if isinstance(errors, list) else []:
        if isinstance(entry, Mapping):
            yield f"{entry.get('field') or 'request'}: {entry.get('message')}"


def _cure(status: int, code: str, document: Mapping[str, object]) -> str:
    verbs = document.get("allowed_verbs")
    if code == "verb-not-allowed" and isinstance(verbs, list):
        return f"allowed now: {', '.join(map(str, verbs)) or 'nothing, the rollout has ended'}"
    choices = document.get("choices")
    if code == "choice-required" and isinstance(choices, list):
        return f"add --choice with one of {', '.join(map(str, choices))}, and --reason"
    if code == "rollout-active" and document.get("rollout") is not None:
        number = document["rollout"]
        return (
            f"see `waypost rollout status {number}`; wait for its end, abort it first, or add"
            " --on-conflict queue or supersede"
        )
    return _CURE_BY_CODE.get(code) or _CURE_BY_STATUS.get(status, "")


def _not_ours(response: httpx2.Response, url: str) -> CliError:
    status = response.status_code
    kind = response.headers.get("Content-Type", "no content type").split(";")[0].strip()
    if status == 429 or status >= 500:
        return UnavailableError(
            f"{url} answered HTTP {status} ({kind}): a proxy in front of the control plane, or"
            " the control plane itself, is in trouble",
            cure="try again in a minute; see the logs there if it stays",
            answered=True,
            retry_after_seconds=_retry_after_seconds(response),
        )
    if status in _CURE_BY_STATUS:
        return CliError(f"{url} answered HTTP {status} ({kind})", cure=_CURE_BY_STATUS[status])
    return CliError(
        f"{url} answered HTTP {status} with {kind}, not with a Waypost answer in JSON",
        cure="check --url (WAYPOST_URL); a proxy or a login page of this network may answer"
        " in its place",
    )


def _certificate(cause: ssl.SSLCertVerificationError, url: str) -> CliError:
    message = f"the certificate of {url} is not accepted: {cause.verify_message}"
    if cause.verify_code in (_HOSTNAME_MISMATCH, _IP_MISMATCH):
        return CliError(message, cure="use the name in the certificate as --url")
    if cause.verify_code == _CERTIFICATE_EXPIRED:
        return CliError(message, cure="renew it there, or set the clock of this machine")
    return CliError(message, cure="give the authority that signed it with --ca-file FILE.pem")


def _retry_after_seconds(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
