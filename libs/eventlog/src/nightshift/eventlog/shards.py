"""The shard of a stream, the same as the SQL function `shard_of` draws."""

from functools import lru_cache
from hashlib import sha256

from nightshift.eventlog.port import SHARDS


@lru_cache(maxsize=4096)
def shard_of(stream_id: str) -> int:
    """0 to SHARDS - 1, for ever."""
    return sha256(stream_id.encode()).digest()[0] % SHARDS
