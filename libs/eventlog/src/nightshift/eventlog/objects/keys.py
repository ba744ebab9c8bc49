"""Checks object keys: relative, `/`-separated, without `..`."""

from nightshift.eventlog.errors import Refused


def check_key(key: str) -> str:
    """Return the key. Raises Refused for a key that is empty, absolute, too long or contains `..`."""
    if not key or len(key) > 1024 or any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise Refused(f"not an object key: {key[:128]!r}")
    return key
