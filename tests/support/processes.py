"""Runs `nightshift up` and other commands for tests: as a process of its own, or inside the test's process."""

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import structlog

from nightshift.cli.main import run

NIGHTSHIFT = (sys.executable, "-m", "nightshift.cli")
_STACK_VARIABLES = ("NIGHTSHIFT_", "ANTHROPIC_", "E2B_")


def clean_environment(**more: str) -> dict[str, str]:
    """Returns the environment without variables that point a stack at other servers, and with `more`."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(_STACK_VARIABLES)},
        **more,
    }


class RunningUp:
    """One `nightshift up --json`. `streams` replaces Popen's pipe for stdout and its file for stderr."""

    def __init__(
        self,
        home: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        streams: Mapping[str, Any] | None = None,
    ) -> None:
        home.parent.mkdir(parents=True, exist_ok=True)
        self.home = home
        self._stderr = home.parent / f"{home.name}.stderr"
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [*NIGHTSHIFT, "up", "--json", "--home", str(home), *arguments],
                text=True,
                env=clean_environment(**(env or {})),
                **{"stdout": subprocess.PIPE, "stderr": stderr, **(streams or {})},
            )
        self._seen: set[psutil.Process] = set()

    def ready(self) -> dict[str, Any]:
        """Waits for the first line and returns its JSON. Raises AssertionError with stderr when there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.stderr()
        status: dict[str, Any] = json.loads(line)
        self.children()
        return status

    def stderr(self) -> str:
        """Returns what the process wrote to stderr so far."""
        return self._stderr.read_text()

    def children(self) -> list[psutil.Process]:
        """Returns the live descendants, and remembers them for `leftovers`."""
        try:
            now = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            now = []
        self._seen.update(now)
        return [one for one in now if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def leftovers(self) -> list[psutil.Process]:
        """Returns the remembered descendants that still run."""
        return [one for one in self._seen if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        """Sends the signal, waits for the end and returns the exit code."""
        self.children()
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def end(self) -> None:
        """Ends the process and every remembered descendant."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.children()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for one in self.leftovers():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def running_up(
    home: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    streams: Mapping[str, Any] | None = None,
) -> Iterator[RunningUp]:
    """Runs `nightshift up` on `home` until the block ends."""
    up = RunningUp(home, *arguments, env=env, streams=streams)
    try:
        yield up
    finally:
        up.end()


def nightshift(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 50.0
) -> "subprocess.CompletedProcess[str]":
    """Runs one command as a process and returns its result."""
    return subprocess.run(
        [*NIGHTSHIFT, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean_environment(**(env or {})),
    )


@contextlib.contextmanager
def logs_kept() -> Iterator[None]:
    """Restores the logging configuration after the block, because some commands change it."""
    root, configured = logging.getLogger(), structlog.is_configured()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        if configured:
            structlog.configure(**config)
        else:
            structlog.reset_defaults()


def in_process(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs one command inside this process, which is faster than `nightshift`, and returns its result.

    Not for `up` and `demo`, which have children, and not while an event loop runs.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        logs_kept(),
        mock.patch.dict(os.environ, clean_environment(), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
