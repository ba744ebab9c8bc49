"""Compares the in-memory log with a plain model under random steps."""

import asyncio

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.support.log_machine import LogMachine

from nightshift.eventlog.memory import MemoryEventLog


class MemoryMachine(LogMachine):
    def make_log(self) -> MemoryEventLog:
        return MemoryEventLog()


def test_the_log_in_memory_does_what_the_model_does():
    with asyncio.Runner() as runner:
        MemoryMachine.loop = runner.get_loop()
        run_state_machine_as_test(
            MemoryMachine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
        )
