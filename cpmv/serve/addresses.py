"""Which hosts and addresses media may be fetched from: names before resolution, addresses after it.

A name must be on the operator's list; every address it resolves to must be a public one (or in a network the operator
named), whatever form it comes in: IPv4 mapped into IPv6 or behind NAT64 is unwrapped first. The caller then
connects to an address that was checked here, never to the name, so that a second resolution cannot differ.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from ..errors import CpmvError
from .errors import ApiError, bad_request

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 8192
PORTS = {"https": 443, "http": 80}

_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_NOT_OUTSIDE: tuple[Network, ...] = (
    ipaddress.IPv6Network("2002::/16"),  # 6to4 and Teredo wrap IPv4 addresses and have no use left but tricks
    ipaddress.IPv6Network("2001::/32"),
    # Public by registry, yet answered by the machine's own cloud.
    ipaddress.IPv4Network("168.63.129.16/32"),
    ipaddress.IPv4Network("192.0.0.0/24"),
)
_HOST = re.compile(r"[a-z0-9_.\-:]+")


@dataclass(frozen=True)
class Target:
    """A URL taken apart: what to connect to and what to ask for there."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class Domains:
    """The operator's list of hosts.

    An entry is `example.com` (https on port 443 of just that host), `.example.com` (it and every host below it), with
    a port if it is another, and with `http://` before it when it may be asked without encryption.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = [_entry(one) for one in entries]

    def __bool__(self) -> bool:
        return bool(self._entries)

    def check(self, url: str) -> Target:
        """Take a URL apart and refuse it (ApiError) unless its scheme, host and port are on the list."""
        target = parse_url(url)
        for scheme, host, port in self._entries:
            is_below = host.startswith(".") and (target.host.endswith(host) or target.host == host[1:])
            if (target.scheme, target.port) == (scheme, port) and (target.host == host or is_below):
                return target
        raise _refused(f"{target.scheme}://{target.authority} is not among the allowed media domains")


def parse_url(url: str) -> Target:
    """Take an http(s) URL apart strictly: what different parsers read differently is refused."""
    if len(url) > MAX_URL:
        raise bad_request(f"the media URL has {len(url)} characters; at most {MAX_URL} are read")
    if any(ord(char) <= 32 or ord(char) == 127 or char in '\\"<>' for char in url):
        raise bad_request("the media URL holds spaces, control characters or backslashes; percent-encode them")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").lower()
    except ValueError as error:
        raise bad_request(f"the media URL cannot be read: {error}") from None
    if parts.scheme.lower() not in PORTS:
        raise bad_request(f"the media URL has the scheme {parts.scheme[:20]!r}; allowed are https and data")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise bad_request("the media URL holds a user name; leave it out")
    scheme = parts.scheme.lower()
    return Target(scheme, _ascii_host(host), port or PORTS[scheme], _path(parts))


def _path(parts: SplitResult) -> str:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        path.encode("ascii")
    except UnicodeEncodeError:
        raise bad_request("the media URL's path has characters beyond ASCII; percent-encode them") from None
    return path


def _ascii_host(host: str) -> str:
    try:
        host = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError:
        host = ""
    host = host.removesuffix(".")
    if not host or len(host) > 253 or not _HOST.fullmatch(host):
        raise bad_request("the media URL has no usable host name")
    return host


def read_networks(entries: Sequence[str]) -> list[Network]:
    """Read the operator's CIDR networks. Raises CpmvError for one that is none."""
    try:
        return [ipaddress.ip_network(entry) for entry in entries]
    except ValueError as error:
        raise CpmvError(f"a media network is wrong: {error}; write it as 10.0.0.0/8") from None


def check_addresses(found: Sequence[str], allowed: Sequence[Network]) -> list[str]:
    """Return the addresses a name resolved to, or raise ApiError if any of them is not for the outside.

    All must pass: a name that also points inwards is somebody's attempt.
    """
    if not found:
        raise bad_request("the media host has no address")
    for text in found:
        address = unwrap(ipaddress.ip_address(text.partition("%")[0]))
        is_allowed = any(address.version == network.version and address in network for network in allowed)
        if not is_allowed and not is_public(address):
            raise _refused("the media host resolves to an address that is not public")
    return list(found)


def is_public(address: Address) -> bool:
    """Whether an address is out on the internet: not loopback, private, link-local, reserved, multicast, metadata."""
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_unspecified
        and not address.is_reserved
        and not getattr(address, "is_site_local", False)
        and not any(address.version == network.version and address in network for network in _NOT_OUTSIDE)
    )


def unwrap(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (mapped, or through NAT64), since that is where packets go."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if any(address in network for network in _NAT64):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _entry(text: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a list entry."""
    try:
        scheme, rest = text.split("://", 1) if "://" in text else ("https", text)
        parts = urlsplit(f"//{rest.strip().replace('*.', '.', 1)}")
        host, port = (parts.hostname or "").lower(), parts.port
        is_host = _HOST.fullmatch(host) and not parts.path.strip("/") and "@" not in rest
        if scheme.lower() in PORTS and is_host:
            return scheme.lower(), host, port or PORTS[scheme.lower()]
    except ValueError:
        pass
    raise CpmvError(f"{text!r} is no media domain; write example.com, .example.com or http://example.com:8080")


def _refused(reason: str) -> ApiError:
    return ApiError(403, f"{reason}; send the media as a data: URI instead", code="media_not_allowed")
