"""The snapshotter's side of the outside world."""
