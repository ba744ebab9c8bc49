"""The programs in `examples/`, run as somebody else would run them."""

import asyncio
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


async def run_example(name: str, *arguments: str, isolated: bool = False) -> str:
    """What the example prints. `isolated`: with a folder on its path that makes any import of ours fail."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(["-c", _WITHOUT_US, str(EXAMPLES / name)] if isolated else [str(EXAMPLES / name)]),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


_WITHOUT_US = """
import runpy, sys
sys.modules["nightshift"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
