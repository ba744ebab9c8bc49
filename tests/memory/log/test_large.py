"""Large fields are stored before the append and restored unchanged. A changed blob is detected."""

import pytest
from tests.support import facts

from nightshift.contracts.canonical import dumps
from nightshift.contracts.model import BlobRef
from nightshift.contracts.registry import decode, encode
from nightshift.eventlog.errors import Fault, NotFound
from nightshift.eventlog.large import INLINE_LIMIT, blob_key, externalize, materialize
from nightshift.eventlog.objects.memory import MemoryObjectStore


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.mark.parametrize(
    "text",
    ["x" * (INLINE_LIMIT + 1), "é" * (INLINE_LIMIT // 2 + 1), "\ud800\x00" * INLINE_LIMIT, '"' * 99_999],
)
async def test_a_long_text_is_stored_and_restored(store, text):
    event = facts.result("b/1/0", text).data
    small = await externalize(event, store)
    assert isinstance(small.output, BlobRef)
    assert len(encode(small)) < 1000
    assert store.bodies[blob_key(small.output.ref.removeprefix("sha256:"))] == text.encode(
        errors="surrogatepass"
    )
    stored = decode(small.type, small.version, encode(small))
    assert await materialize(stored, store) == event


async def test_a_field_within_the_limit_stays_inline(store):
    event = facts.result("b/1/0", "x" * INLINE_LIMIT).data
    assert await externalize(event, store) is event
    assert await materialize(event, store) is event
    assert store.bodies == {}


async def test_an_object_is_stored_as_canonical_json(store):
    event = facts.call("b/1/0").data.model_copy(update={"input": {"b": "x" * INLINE_LIMIT, "a": 1e400}})
    small = await externalize(event, store)
    assert isinstance(small.input, BlobRef)
    assert await materialize(small, store) == event


async def test_a_value_that_looks_like_a_reference_is_stored(store):
    lookalike = {"ref": "sha256:" + "0" * 64, "bytes": 3}
    event = facts.call("b/1/0").data.model_copy(update={"input": lookalike})
    small = await externalize(event, store)
    stored = decode(small.type, small.version, encode(small))
    assert (await materialize(stored, store)).input == lookalike


@pytest.mark.parametrize(
    "value",
    [
        {"text": "\x00" * 5_500, "more": ["é" * 200, 1, None, 1.5, True]},
        {"emoji": "\U0001f600" * 2_800},
        {"number": 10**4_000, "deep": [[[["x" * 5_000]]]]},
        {"\x00" * 5_500: 1},
        {"items": ["" for _ in range(9_000)]},
    ],
)
async def test_the_quick_size_check_never_passes_a_large_field(store, value):
    for few in (1, 2, 8):
        whole = {str(number): value for number in range(few)}
        event = facts.call("b/1/0").data.model_copy(update={"input": whole})
        left = isinstance((await externalize(event, store)).input, BlobRef)
        assert left == (len(dumps(whole)) > INLINE_LIMIT)


async def test_a_small_field_uses_no_thread(store, monkeypatch):
    async def refuse(*_args, **_more):
        raise AssertionError("a thread for a field of a few bytes")

    monkeypatch.setattr("asyncio.to_thread", refuse)
    event = facts.call("b/1/0").data.model_copy(update={"input": {"command": "ls " * 700}})
    assert await externalize(event, store) is event


async def test_externalizing_twice_changes_nothing(store):
    event = facts.result("b/1/0", "x" * 99_999).data
    once = await externalize(event, store)
    assert await externalize(once, store) is once
    assert await externalize(event, store) == once
    assert len(store.bodies) == 1


async def test_bytes_with_another_digest_are_a_fault(store):
    small = await externalize(facts.result("b/1/0", "x" * 99_999).data, store)
    key = next(iter(store.bodies))
    for wrong in (b"y" * 99_999, b"x"):
        store.bodies[key] = wrong
        with pytest.raises(Fault):
            await materialize(small, store)
    del store.bodies[key]
    with pytest.raises(NotFound):
        await materialize(small, store)
