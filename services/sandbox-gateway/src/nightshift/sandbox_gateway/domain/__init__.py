"""What the gateway decides, without IO."""
