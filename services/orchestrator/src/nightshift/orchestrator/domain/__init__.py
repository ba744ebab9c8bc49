"""What a build is and what it does next: pure functions over its events. No IO, no clock, no randomness."""
