"""What may be a key: relative, `/`-separated, never a way out of a store that keeps files."""

from nightshift.eventlog.errors import Refused


def check_key(key: str) -> str:
    """The key itself. Raises Refused for an empty, absolute or climbing one."""
    if not key or len(key) > 1024 or any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise Refused(f"not an object key: {key[:128]!r}")
    return key
