"""Records which objects of a project garbage collection is about to delete.

Such an object is doomed: no upload reuses it. Each state of this record is an object of its own,
`<prefix>/gc/<number>.json`, that is written only once. So when two collections run at the same time, only one writes
its state. And no reader sees half of a change.
"""

import json
from collections.abc import Mapping

from nightshift.eventlog.objects.port import ObjectStore


async def newest(objects: ObjectStore, prefix: str) -> tuple[int, Mapping[str, float]]:
    """Return the number of the newest state, and for each doomed key the time when it was doomed, in seconds since
    1970.

    Each collection that dooms or deletes objects increases the number. The number is 0 before the first collection.
    """
    keys = [found.key async for found in objects.list(f"{prefix}/gc/")]
    if not keys:
        return 0, {}
    key = max(keys)
    return int(key.rpartition("/")[2].removesuffix(".json")), json.loads(await objects.get(key))


async def write(objects: ObjectStore, prefix: str, number: int, doomed: Mapping[str, float]) -> bool:
    """Write the state with this number: the keys of doomed objects with their times.

    Returns False when another garbage collection has already written a state with this number.
    """
    body = json.dumps(dict(doomed), sort_keys=True).encode()
    return await objects.put_if_absent(f"{prefix}/gc/{number:010d}.json", body)
