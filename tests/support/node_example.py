"""Runs an example in JavaScript, with its dependencies installed once from its lock file."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


async def installed(name: str) -> Path:
    """Returns a copy of the example with its dependencies. Skips the test where Node or a registry is absent."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("needs Node and npm")
    example = ROOT / "examples" / name
    lock = (example / "package-lock.json").read_bytes()
    folder = ROOT / ".cache/examples" / f"{name}-{sha256(lock).hexdigest()[:12]}"
    if not (folder / "node_modules/.package-lock.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(example / file, folder)
        install = await asyncio.create_subprocess_exec(
            *(npm, "ci", "--no-audit", "--no-fund"),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await install.communicate()
        if install.returncode != 0:
            pytest.skip(f"npm cannot install the dependencies of {name}: {out.decode()[-300:]}")
    for file in example.glob("*.mjs"):
        shutil.copy(file, folder)
    return folder


@contextlib.asynccontextmanager
async def running(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs `consumer.mjs` and yields its process, which has said that it is ready. Ends it with SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *("node", "consumer.mjs", *arguments), cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            while (line := await process.stdout.readline()) != b"ready\n":
                assert line, "the consumer ended before it was ready"
        yield process
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
