"""The objects of a project that garbage collection is about to delete. Uploads reuse none of them.

Each state is an object of its own, `<prefix>/gc/<number>.json`, that is written once. So of two collections at the same
time one is refused, and no reader sees half of a change.
"""

import json
from collections.abc import Mapping

from nightshift.eventlog.objects.port import ObjectStore


async def newest(objects: ObjectStore, prefix: str) -> tuple[int, Mapping[str, float]]:
    """Return the number of the newest state, and for each doomed key the time when it was doomed, in seconds.

    The number grows with every collection that dooms or deletes. It is 0 before the first one.
    """
    keys = [found.key async for found in objects.list(f"{prefix}/gc/")]
    if not keys:
        return 0, {}
    key = max(keys)
    return int(key.rpartition("/")[2].removesuffix(".json")), json.loads(await objects.get(key))


async def write(objects: ObjectStore, prefix: str, number: int, doomed: Mapping[str, float]) -> bool:
    """Write the state with this number. Returns False when another collection has written it."""
    body = json.dumps(dict(doomed), sort_keys=True).encode()
    return await objects.put_if_absent(f"{prefix}/gc/{number:010d}.json", body)
