"""The use cases: run a build, schedule builds, handle requests."""
