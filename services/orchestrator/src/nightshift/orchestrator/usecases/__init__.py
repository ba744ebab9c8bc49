"""The use cases: running a build, scheduling builds, and handling requests."""
