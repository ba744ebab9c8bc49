"""The errors of the relay."""

from nightshift.eventlog.errors import Fault, Transient


class LeadershipLost(Transient):
    """The database session through which this process led is gone. Another process may lead by now."""


class BrokerLost(Transient):
    """The broker lost records that it had acknowledged."""


class Diverged(Fault):
    """Kafka has facts that the log does not have.

    The relay exits at each start until a person has decided what is right.
    """
