"""Reads the server name from the first bytes of a TLS connection (RFC 8446, section 4.1.2; RFC 6066, section 3)."""

from nightshift.sandboxes.egress.hosts import HostRefused

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ENCRYPTED_HELLO = 0, 0xFE0D
_LONGEST = 32 * 1024

#: TLS alerts, fatal: no such name (112), and unexpected message (10).
UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"


def server_name(received: bytes) -> str | None:
    """Return the host name that the client asks for, or None while more bytes are needed.

    Raises HostRefused when the bytes begin no ClientHello, when the ClientHello names no server, or when it hides the
    name (encrypted ClientHello).
    """
    message = b""
    rest = received
    while True:
        if len(rest) < 5:
            _require_room(received)
            return None
        if rest[0] != _HANDSHAKE or rest[1] != 3:
            raise HostRefused("only TLS is carried to port 443")
        size = int.from_bytes(rest[3:5])
        message, rest = message + rest[5 : 5 + size], rest[5 + size :]
        if message and message[0] != _CLIENT_HELLO:
            raise HostRefused("the connection does not begin with a ClientHello")
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4]):
            return _named(message[4 : 4 + int.from_bytes(message[1:4])])
        if not rest:
            _require_room(received)
            return None


def _require_room(received: bytes) -> None:
    if received and received[0] != _HANDSHAKE:
        raise HostRefused("only TLS is carried to port 443")
    if len(received) > _LONGEST:
        raise HostRefused("the ClientHello is too long")


def _named(hello: bytes) -> str:
    try:
        at = 34
        at += 1 + hello[at]
        at += 2 + int.from_bytes(hello[at : at + 2])
        at += 1 + hello[at]
        extensions = hello[at + 2 : at + 2 + int.from_bytes(hello[at : at + 2])]
    except IndexError:
        raise HostRefused("the ClientHello is malformed") from None
    names = []
    while len(extensions) >= 4:
        kind, size = int.from_bytes(extensions[:2]), int.from_bytes(extensions[2:4])
        value, extensions = extensions[4 : 4 + size], extensions[4 + size :]
        if kind == _ENCRYPTED_HELLO:
            raise HostRefused("an encrypted server name cannot be checked")
        if kind == _SERVER_NAME:
            names.append(value)
    if len(names) != 1 or len(names[0]) < 5 or names[0][2] != 0:
        raise HostRefused("the ClientHello names no server")
    size = int.from_bytes(names[0][3:5])
    if size != len(names[0]) - 5:
        raise HostRefused("the ClientHello names several servers")
    return names[0][5:].decode("ascii", "replace").lower()
