"""The messages between Nightshift's services and yours: events, topics, envelope, prices. Pydantic only, no IO."""
