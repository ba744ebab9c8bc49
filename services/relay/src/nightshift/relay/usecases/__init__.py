"""What the relay does: stand by, lead, check, publish."""
