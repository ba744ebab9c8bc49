"""The conformance suite of leases."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

#: Lets so many seconds of the keeper's clock pass.
Pass = Callable[[float], Awaitable[None]]


class LeaseConformance:
    """Needs the fixtures `leases`, and `passes`, which lets time pass on their clock."""

    async def test_a_lease_has_one_owner_at_a_time(self, leases):
        lease = await leases.acquire("build/a", "one", ttl=60)
        assert (lease.name, lease.owner) == ("build/a", "one")
        assert await leases.acquire("build/a", "two", ttl=60) is None
        assert await leases.acquire("build/b", "two", ttl=60) is not None

    async def test_an_expired_lease_is_taken_over_for_good(self, leases, passes):
        first = await leases.acquire("n", "one", ttl=0.05)
        await passes(0.06)
        second = await leases.acquire("n", "two", ttl=60)
        assert second.fence > first.fence
        assert not await leases.renew(first, ttl=60)
        await leases.release(first)
        assert await leases.acquire("n", "three", ttl=60) is None
        assert await leases.renew(second, ttl=60)

    async def test_a_renewed_lease_does_not_expire(self, leases, passes):
        lease = await leases.acquire("n", "one", ttl=0.5)
        assert await leases.renew(lease, ttl=60)
        await passes(0.6)
        assert await leases.acquire("n", "two", ttl=60) is None

    async def test_many_leases_are_renewed_in_one_call(self, leases, passes):
        kept = [await leases.acquire(name, "one", ttl=0.5) for name in ("z", "a", "m")]
        freed = await leases.acquire("f", "one", ttl=60)
        await leases.release(freed)
        former = await leases.acquire("t", "one", ttl=60)
        await leases.acquire("t", "one", ttl=60)
        asked = [kept[0], freed, kept[1], former, kept[2]]
        assert list(await leases.renew_all(asked, ttl=60)) == [True, False, True, False, True]
        assert list(await leases.renew_all([], ttl=60)) == []
        await passes(0.6)
        for lease in kept:
            assert await leases.acquire(lease.name, "two", ttl=60) is None

    async def test_an_expired_lease_cannot_be_renewed(self, leases, passes):
        lease = await leases.acquire("n", "one", ttl=0.05)
        await passes(0.06)
        assert not await leases.renew(lease, ttl=60)

    async def test_the_fence_of_a_name_only_grows(self, leases, passes):
        fences = []
        for owner in ("one", "one", "two", "one"):
            lease = await leases.acquire("n", owner, ttl=0.02)
            fences.append(lease.fence)
            await passes(0.03)
        lease = await leases.acquire("n", "one", ttl=60)
        await leases.release(lease)
        fences += [lease.fence, (await leases.acquire("n", "two", ttl=60)).fence]
        assert fences == sorted(set(fences))

    async def test_an_owner_that_acquires_again_gets_a_new_fence(self, leases):
        former = await leases.acquire("n", "one", ttl=60)
        present = await leases.acquire("n", "one", ttl=60)
        assert present.fence > former.fence
        assert not await leases.renew(former, ttl=60)

    async def test_a_released_lease_is_free_for_the_next_owner(self, leases):
        lease = await leases.acquire("n", "one", ttl=60)
        await leases.release(lease)
        assert not await leases.renew(lease, ttl=60)
        assert await leases.acquire("n", "two", ttl=60) is not None

    async def test_release_all_frees_every_lease_of_the_owner(self, leases):
        former = [await leases.acquire(name, "one", ttl=60) for name in ("a", "b")]
        released = await leases.acquire("c", "one", ttl=60)
        await leases.release(released)
        others = await leases.acquire("d", "two", ttl=60)
        assert await leases.release_all("one") == 2
        assert not await leases.renew(former[0], ttl=60)
        taken = await leases.acquire("a", "three", ttl=60)
        assert taken.fence > former[0].fence
        assert await leases.renew(others, ttl=60)
        assert await leases.release_all("one") == 0

    @pytest.mark.parametrize("round_", range(5))
    async def test_one_of_many_concurrent_owners_gets_the_lease(self, leases, passes, round_):
        await leases.acquire("n", "former", ttl=0.01)
        await passes(0.02)
        got = await asyncio.gather(*(leases.acquire("n", f"owner{n}", ttl=60) for n in range(8)))
        assert len([lease for lease in got if lease is not None]) == 1
