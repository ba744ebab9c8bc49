"""The gateway's decisions: pure functions and data, without IO."""
