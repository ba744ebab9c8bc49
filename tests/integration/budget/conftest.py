"""The budget service on a database of the test's own."""

from collections.abc import AsyncIterator

import pytest
from tests.support.budget_rig import BudgetRig, budget_rig


@pytest.fixture
async def rig(database) -> AsyncIterator[BudgetRig]:
    async with budget_rig(database) as rig:
        yield rig
