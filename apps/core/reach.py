"""Which addresses a message may go to where a person of a workspace wrote its URL.

Whoever sets up a webhook decides what this machine connects to. So that no webhook becomes a way
to what only this machine reaches (databases, the cloud's metadata), such a message goes to
addresses of the public internet alone, and to those that whoever runs Runyard has allowed.

Pure, and without Django: the process that speaks for apprise reads it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_-]{1,63}\.?")

#: What is not the public internet (IANA's special-purpose registries), written out: what
#: `ipaddress` knows of them differs from one Python to the next.
_NOT_PUBLIC_4 = [
    ip_network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]
#: All that is public lies here, but for these parts of it: tunnels and examples.
_PUBLIC_6 = ip_network("2000::/3")
_NOT_PUBLIC_6 = [
    ip_network(each) for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
#: Where a network without IPv4 reaches the addresses of it (RFC 6052).
_TRANSLATED = IPv6Network("64:ff9b::/96")
#: Nothing that a name may lead to, even one that is allowed: the machine's own neighbourhood,
#: with the metadata of clouds in it, and what is no single machine.
_NEVER_BY_NAME = [
    ip_network(each)
    for each in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/128", "fe80::/10", "ff00::/8")
]


@dataclass(frozen=True)
class Internal:
    """What may be reached though it is not public."""

    #: As 10.1.0.0/16.
    networks: tuple[str, ...] = ()
    #: Of hosts, in lower case: each leads wherever its name does.
    names: tuple[str, ...] = ()


def read_internal(text: str) -> Internal:
    """Networks, addresses and names of hosts, by commas. Raises ValueError, naming the part."""
    networks, names = [], []
    for part in filter(None, (each.strip().lower() for each in text.split(","))):
        try:
            networks.append(str(ip_network(part)))
        except ValueError:
            if "/" in part or not _NAME.fullmatch(part) or not re.search("[a-z]", part):
                raise ValueError(
                    f"{part!r} is neither a network such as 10.1.0.0/16 nor a host's name"
                ) from None
            names.append(part.rstrip("."))
    return Internal(tuple(networks), tuple(names))


def may_reach(address: str, internal: Internal, *, name: str = "") -> bool:
    """Whether a message may go to this address (an IP, never a name).

    `name`: what it was found under.
    """
    try:
        ip = _unwrapped(ip_address(address))
    except ValueError:
        return False
    if is_public(ip) or any(ip in ip_network(each) for each in internal.networks):
        return True
    if name.lower().rstrip(".") not in internal.names:
        return False
    return not any(ip in each for each in _NEVER_BY_NAME)


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv4Address):
        return not any(ip in each for each in _NOT_PUBLIC_4)
    return ip.scope_id is None and ip in _PUBLIC_6 and not any(ip in each for each in _NOT_PUBLIC_6)


def _unwrapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for, where that is what is reached by it."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _TRANSLATED else ip
