"""Where a webhook may lead: which URLs and which addresses. A receiver is named by a token with the
scope `fleet`, and must not become a way into the network of the control plane.

Decides on texts and addresses alone; it resolves no name and opens no connection."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

MAX_URL_LENGTH = 500
_NAT64 = IPv6Network("64:ff9b::/96")
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, kw_only=True)
class TargetRules:
    """What the operator allows beyond https to public addresses."""

    allow_http: bool = False
    allow_private: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL taken apart."""

    scheme: str
    host: str
    port: int
    authority: str  # host and port as the URL has them, for the header Host
    path: str


class BadTarget(ValueError):
    """The message says what is wrong and what would be right."""


def parse_target(url: str, rules: TargetRules) -> Target:
    """Raises `BadTarget`. A host that is an address is judged here, a name when it is resolved."""
    if len(url) > MAX_URL_LENGTH:
        raise BadTarget(f"may have at most {MAX_URL_LENGTH} characters")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadTarget("may hold printable ASCII alone; write other characters as %XX or punycode")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadTarget(f"is no URL: {error}") from error
    _check_parts(parts, rules)
    if not host or port == 0:
        raise BadTarget("must name a host, as in https://example.org/waypost")
    if refusal := _literal_refusal(host, rules):
        raise BadTarget(refusal)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(
        scheme=parts.scheme,
        host=host,
        port=port or _PORTS[parts.scheme],
        authority=parts.netloc,
        path=path,
    )


def origin_of(url: str) -> str:
    """What of a kept URL may be written down: paths and queries often hold a token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _check_parts(parts: SplitResult, rules: TargetRules) -> None:
    if parts.scheme == "http" and not rules.allow_http:
        raise BadTarget("must begin with https:// (http needs WAYPOST_WEBHOOK_ALLOW_HTTP)")
    if parts.scheme not in _PORTS:
        raise BadTarget("must begin with https://")
    if "@" in parts.netloc:
        raise BadTarget("may hold no user and password; deliveries are signed instead")
    if parts.fragment:
        raise BadTarget("may hold no fragment (#...), which is never sent")


def _literal_refusal(host: str, rules: TargetRules) -> str:
    try:
        ip_address(host)
    except ValueError:
        return ""  # a name
    return address_refusal(host, rules)


def address_refusal(text: str, rules: TargetRules) -> str:
    """Why nothing may be sent to this address; empty when it may."""
    try:
        address = ip_address(text)
    except ValueError:
        return f"{text} is no address"
    address = _embedded(address) or address
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return f"{text} is a link-local, multicast or empty address, where no receiver can be"
    if not address.is_global and not rules.allow_private:
        return (
            f"{text} is not a public address; receivers inside need WAYPOST_WEBHOOK_ALLOW_PRIVATE"
        )
    return ""


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to: mapped, 6to4 or NAT64."""
    if not isinstance(address, IPv6Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
