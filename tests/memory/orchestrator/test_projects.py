"""The accounts of projects in memory."""

import pytest
from tests.support.memory_projects import MemoryProjects
from tests.support.project_conformance import ProjectConformance


class TestMemoryProjects(ProjectConformance):
    @pytest.fixture
    def projects(self) -> MemoryProjects:
        return MemoryProjects()
