"""The addresses to which the proxy never connects, whichever host name resolves to them."""

import socket
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

#: Each network with the reason why it is refused: IANA's special-purpose registries without the networks for
#: documentation. No private network uses those, and test networks do.
_REFUSED: Final = {
    ip_network(network): reason
    for reason, networks in {
        "this host": ("0.0.0.0/8", "::/128"),
        "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
        "shared by a provider's customers": ("100.64.0.0/10",),
        "loopback": ("127.0.0.0/8", "::1/128"),
        "link-local, where cloud metadata is": ("169.254.0.0/16", "fe80::/10"),
        "cloud metadata": ("168.63.129.16/32",),
        "multicast or broadcast": ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8"),
        "for protocols": ("192.0.0.0/24", "192.88.99.0/24", "100::/64", "5f00::/16"),
        "for benchmarks": ("198.18.0.0/15", "2001:2::/48"),
        "reserved": ("240.0.0.0/4", "::/96"),
        "an IPv4 address in IPv6": ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
        "a tunnel to an IPv4 address": ("2002::/16", "2001::/32"),
    }.items()
    for network in networks
}


def refusal(address: str) -> str | None:
    """Return why the proxy must not connect to this address, or None when it may."""
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return "not an address"
    if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
        return "bound to an interface"
    for network, reason in _REFUSED.items():
        if parsed in network:
            return reason
    return "this host" if _is_own(address) else None


def _is_own(address: str) -> bool:
    """Return whether an interface of this machine has the address.

    Only asks the kernel for the route, and sends nothing.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False  # no route, so the connection will fail too
        return ip_address(probe.getsockname()[0]) == ip_address(address)
