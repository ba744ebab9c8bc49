"""The accounts of projects, in memory."""


class MemoryProjects:
    """Implements the port Projects."""

    def __init__(self) -> None:
        self._accounts: dict[str, str] = {}

    async def claim(self, project_id: str, account_id: str) -> str:
        return self._accounts.setdefault(project_id, account_id)
