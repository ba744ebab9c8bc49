"""A gateway and its sandboxes on a local driver of the test's own."""

from tests.support.local_world import driver, world

__all__ = ["driver", "world"]
