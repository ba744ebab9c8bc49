"""The work of the relay: stand by, lead, check the broker, publish."""
