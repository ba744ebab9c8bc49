"""Makes and checks signed links to previews.

The first label of the host name contains sandbox, port, expiry and signature. So each preview is an origin of its own,
its name cannot be guessed, and no server must store links.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

#: `<port>-<sandbox id>-<expiry, seconds since 1970 in hex>-<signature>`
_LABEL: Final = re.compile(r"([1-9][0-9]{0,4})-([a-z0-9]+(?:-[a-z0-9]+)*)-([0-9a-f]{8})-([a-z2-7]{24})")
_LONGEST: Final = 63


@dataclass(frozen=True, slots=True)
class PreviewLinks:
    """Makes and reads links below the host of `base`, a URL such as `https://preview.example.org`."""

    base: str
    key: bytes

    def link(self, sandbox_id: str, port: int, *, expires: int) -> str:
        """Return the URL of a preview. It is valid until `expires`, in seconds since 1970.

        Raises ValueError when the sandbox id does not fit into a host name.
        """
        signed = f"{port}-{sandbox_id}-{expires:08x}"
        label = f"{signed}-{self._signature(signed)}"
        if len(label) > _LONGEST or not _LABEL.fullmatch(label):
            raise ValueError(f"the id {sandbox_id!r} fits into no host name")
        parts = urlsplit(self.base)
        return urlunsplit((parts.scheme, f"{label}.{parts.netloc}", "/", "", ""))

    def read(self, host: str, *, now: float) -> tuple[str, int] | Literal["unknown", "expired"]:
        """Return the sandbox id and the port in the host name of a request.

        Returns `unknown` for a host name that this object did not sign, and `expired` after its expiry.
        """
        own = urlsplit(self.base)
        name = host.lower()
        label, _, rest = name.partition(".")
        found = _LABEL.fullmatch(label)
        if found is None or rest.partition(":")[0] != (own.hostname or ""):
            return "unknown"
        port, sandbox_id, expires, signature = found.groups()
        if not hmac.compare_digest(signature, self._signature(f"{port}-{sandbox_id}-{expires}")):
            return "unknown"
        return (sandbox_id, int(port)) if now < int(expires, 16) else "expired"

    def _signature(self, signed: str) -> str:
        digest = hmac.new(self.key, f"preview/{signed}".encode(), hashlib.sha256).digest()
        return base64.b32encode(digest[:15]).decode().lower()
