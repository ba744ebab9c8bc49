"""A local server of E2B's protocol: the control plane, and in each sandbox a process that does what E2B's envd does."""

from tests.support.e2b_server.server import E2BServer

__all__ = ["E2BServer"]
