"""Where the control plane is and how to prove who calls. Decides whether both are usable before
anything is sent; it must not know what will be asked."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from waypost_cli.errors import CliError

API_PATH = "/api/v1"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Connection:
    """`url` has neither a path of the API nor a trailing slash; the token is kept out of `repr`."""

    url: str
    token: str = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False, default=None)

    @property
    def sends_token_in_clear(self) -> bool:
        parts = urlsplit(self.url)
        return parts.scheme == "http" and parts.hostname not in _LOOPBACK


def make_connection(*, url: str | None, token: str | None, ca_file: Path | None) -> Connection:
    """Raises `CliError` naming the option and the variable that would cure it."""
    return Connection(url=_checked_url(url), token=_checked_token(token), tls=_tls(ca_file))


def _checked_url(url: str | None) -> str:
    if not url:
        raise CliError(
            "no control plane is named",
            cure="set WAYPOST_URL or give --url, for example https://waypost.example.com",
        )
    cure = "give it as https://HOST or https://HOST:PORT"
    try:
        parts = urlsplit(url.strip())
        bad_port = parts.port == 0
    except ValueError as error:
        raise CliError(f"the URL cannot be read: {error}", cure=cure) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or bad_port:
        raise CliError(f"{url!r} is not the address of a control plane", cure=cure)
    if parts.username or parts.password:
        raise CliError("the URL holds a user name or password", cure="use an API token instead")
    if parts.query or parts.fragment:
        raise CliError(f"the URL {url!r} has a query or a fragment", cure=cure)
    path = parts.path.rstrip("/").removesuffix(API_PATH).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _checked_token(token: str | None) -> str:
    stripped = (token or "").strip()
    if not stripped:
        raise CliError(
            "no API token is given",
            cure="make one in the console and set WAYPOST_TOKEN (a secret of the CI job)",
        )
    if not all("!" <= character <= "~" for character in stripped):
        # The token itself is never shown: a CI log is read by many.
        raise CliError(
            "the API token holds blanks or characters that no token has",
            cure="paste it again, without quotes or line breaks",
        )
    return stripped


def _tls(ca_file: Path | None) -> ssl.SSLContext | None:
    """Trusts the file's authorities beside the system's; None keeps the HTTP client's default."""
    if ca_file is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else str(error)
        raise CliError(
            f"the CA file {ca_file} cannot be used: {reason}",
            cure="give a PEM file with the certificate of the authority",
        ) from error
    return context
