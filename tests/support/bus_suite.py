"""The conformance suite of the bus: what every adapter must do, run on the real broker and on the one in memory."""

from tests.support.bus.dead_letters import DeadLetterSuite
from tests.support.bus.delivery import DeliverySuite
from tests.support.bus.errors import ErrorSuite
from tests.support.bus.rig import QUICK, Rig, Seen, fact, request


class BusSuite(DeliverySuite, ErrorSuite, DeadLetterSuite):
    """Every promise of the bus; the adapter's conftest provides the fixture `rig`."""


__all__ = ["QUICK", "BusSuite", "Rig", "Seen", "fact", "request"]
