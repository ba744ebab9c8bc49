"""The relay's own errors."""

from nightshift.eventlog.errors import Fault, Transient


class LeadershipLost(Transient):
    """The database session that made this process the leader is gone. Another process may lead by now."""


class BrokerLost(Transient):
    """The broker does not hold what it acknowledged."""


class Diverged(Fault):
    """Kafka holds facts that the log does not have. The relay exits, at each start, until a person has decided."""
