"""The script that runs a project's own tests when the request names no checks. The command line recognizes it."""

from nightshift.orchestrator.domain.checks import DETECT

__all__ = ["DETECT"]
