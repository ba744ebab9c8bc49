"""When the orchestrator acts: it runs builds, schedules them and takes requests."""
