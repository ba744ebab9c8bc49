"""The whole local stack: planned, started, kept alive and stopped."""
