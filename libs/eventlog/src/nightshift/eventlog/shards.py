"""Computes the shard of a stream, as the SQL function `shard_of` does."""

from functools import lru_cache
from hashlib import sha256

from nightshift.eventlog.port import SHARDS


@lru_cache(maxsize=4096)
def shard_of(stream_id: str) -> int:
    """Return the shard of a stream, 0 to SHARDS - 1. It never changes."""
    return sha256(stream_id.encode()).digest()[0] % SHARDS
