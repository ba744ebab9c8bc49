"""What the snapshotter decides, without IO."""
