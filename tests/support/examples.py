"""The programs in `examples/`, run as somebody else would run them: who has only what their first lines ask for."""

import asyncio
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"

#: Example → what of ours it may import. Anything else fails, as if it were not installed.
OURS = {"produce_with_contracts.py": ("nightshift.contracts",), "produce_plain.py": ()}

_ALONE = """
import runpy, sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        first, *rest = name.split(".")
        mine = any(f"{name}.".startswith(f"{one}.") or f"{one}.".startswith(f"{name}.") for one in allowed)
        if first == "nightshift" and not mine:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

allowed = sys.argv[1].split()
sys.meta_path.insert(0, Missing)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


async def run_example(name: str, *arguments: str) -> str:
    """What the example prints. Fails with its stderr when it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _ALONE, " ".join(OURS[name]), str(EXAMPLES / name)),
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
