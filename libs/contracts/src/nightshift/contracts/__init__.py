"""The messages between Nightshift's services and your systems: events, topics, envelope and prices. It does no IO."""
