"""A `nightshift up` as a test drives it: another process, its first line, its stderr, its children."""

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
    """Ours, without what would point a stack at servers of the machine the tests run on."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(_STACK_VARIABLES)},
        **more,
    }


class RunningUp:
    """One `nightshift up --json`. `streams`: what Popen gets in place of a pipe for stdout, a file for stderr."""

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
        """Its first line; fails with its stderr when it ends without one. The test's own time limit bounds it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.stderr()
        told: dict[str, Any] = json.loads(line)
        self.children()
        return told

    def stderr(self) -> str:
        """What it said so far."""
        return self._stderr.read_text()

    def children(self) -> list[psutil.Process]:
        """Its direct children that live; remembered, so that `leftovers` can look for them."""
        try:
            now = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            now = []
        self._seen.update(now)
        return [one for one in now if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def leftovers(self) -> list[psutil.Process]:
        """Every process it ever had (as far as seen) that still lives."""
        return [one for one in self._seen if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop, and wait; returns its exit code."""
        self.children()
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def end(self) -> None:
        """However the test ended: nothing of it stays."""
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
    """A stack on `home` for the length of a test."""
    up = RunningUp(home, *arguments, env=env, streams=streams)
    try:
        yield up
    finally:
        up.end()


def nightshift(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 50.0
) -> "subprocess.CompletedProcess[str]":
    """One command to its end."""
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
    """Some commands set up the logs of their process; afterwards those of this one are as they were."""
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
    """One command to its end inside this process: for what a command does, where starting one proves nothing more.

    Not for `up` and `demo`, which have children, nor beside an event loop.
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
