"""The conformance suite of object stores."""

import asyncio

import pytest

from nightshift.eventlog.errors import NotFound, Refused
from nightshift.eventlog.objects.port import ObjectInfo


class ObjectStoreConformance:
    """Needs the fixtures `store`, and `prefix`, a key prefix without other writers."""

    async def test_an_object_is_read_as_it_was_put(self, store, prefix):
        body = bytes(range(256)) * 10
        await store.put(f"{prefix}/a", body)
        assert await store.get(f"{prefix}/a") == body
        assert [item async for item in store.list(f"{prefix}/a")] == [ObjectInfo(f"{prefix}/a", len(body))]
        await store.put(f"{prefix}/a", b"")
        assert await store.get(f"{prefix}/a") == b""

    async def test_put_if_absent_writes_once(self, store, prefix):
        assert await store.put_if_absent(f"{prefix}/a", b"one")
        assert not await store.put_if_absent(f"{prefix}/a", b"two")
        assert await store.get(f"{prefix}/a") == b"one"

    async def test_one_of_many_concurrent_writers_is_first(self, store, prefix):
        done = await asyncio.gather(*(store.put_if_absent(f"{prefix}/a", b"%d" % n) for n in range(8)))
        assert sum(done) == 1
        assert await store.get(f"{prefix}/a") == b"%d" % done.index(True)

    async def test_reading_a_missing_object_raises_not_found(self, store, prefix):
        with pytest.raises(NotFound):
            await store.get(f"{prefix}/none")
        with pytest.raises(NotFound):
            await store.get_range(f"{prefix}/none", 0, 1)
        await store.delete(f"{prefix}/none")

    async def test_a_range(self, store, prefix):
        await store.put(f"{prefix}/a", b"0123456789")
        assert await store.get_range(f"{prefix}/a", 2, 3) == b"234"
        assert await store.get_range(f"{prefix}/a", 8, 10) == b"89"
        assert await store.get_range(f"{prefix}/a", 0, 0) == b""
        assert await store.get_range(f"{prefix}/a", 10, 5) == b""

    async def test_objects_are_listed_by_prefix_in_order(self, store, prefix):
        for name in ("b/2", "a", "b/1", "bc"):
            await store.put(f"{prefix}/{name}", name.encode())
        assert [item.key async for item in store.list(f"{prefix}/b")] == [
            f"{prefix}/b/1",
            f"{prefix}/b/2",
            f"{prefix}/bc",
        ]
        assert [item async for item in store.list(f"{prefix}/b/")] == [
            ObjectInfo(f"{prefix}/b/1", 3),
            ObjectInfo(f"{prefix}/b/2", 3),
        ]

    async def test_a_deleted_object_is_gone(self, store, prefix):
        await store.put(f"{prefix}/a", b"x")
        await store.delete(f"{prefix}/a")
        assert [item async for item in store.list(f"{prefix}/a")] == []
        assert await store.put_if_absent(f"{prefix}/a", b"y")

    async def test_an_invalid_key_is_refused(self, store):
        for key in ("", "/a", "a//b", "../a", "a/../b", "a/", "a\0b"):
            for work in (store.get(key), store.put(key, b""), store.put_if_absent(key, b"")):
                with pytest.raises(Refused):
                    await work
            with pytest.raises(Refused):
                await store.delete(key)
