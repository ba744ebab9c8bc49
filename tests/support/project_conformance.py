"""The conformance suite of the port Projects: the fake and the real adapter pass it."""

import asyncio

from nightshift.orchestrator.ports import Projects


class ProjectConformance:
    """Subclasses provide the fixture `projects`."""

    async def test_a_project_belongs_to_its_first_account(self, projects: Projects) -> None:
        assert await projects.claim("p1", "a1") == "a1"
        assert await projects.claim("p1", "a2") == "a1"
        assert await projects.claim("p1", "a1") == "a1"
        assert await projects.claim("p2", "a2") == "a2"

    async def test_claims_at_one_time_have_one_winner(self, projects: Projects) -> None:
        accounts = [f"a{number}" for number in range(8)]
        owners = await asyncio.gather(*(projects.claim("p", one) for one in accounts))
        assert len(set(owners)) == 1
        assert owners[0] in accounts
