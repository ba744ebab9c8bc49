"""The script that runs the tests of a project whose request names no checks, for tools that show its calls."""

from nightshift.orchestrator.domain.checks import DETECT

__all__ = ["DETECT"]
