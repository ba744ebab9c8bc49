"""`nightshift files`: lists or writes the files of a build at any moment, from its snapshots."""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Any

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.exits import Exit
from nightshift.cli.output import note, write_json, write_line
from nightshift.cli.snapshot_access import FilesAt, open_snapshots
from nightshift.cli.zip_files import write_zip
from nightshift.sandboxes.port import Entry
from nightshift.sandboxes.snapshots.checkout import checkout
from nightshift.sandboxes.snapshots.manifest import ROOT

app = cyclopts.App(name="files")


@app.default
async def files(
    build: BuildId,
    *,
    at: FilesAt = None,
    to: Annotated[
        Path | None, cyclopts.Parameter(help="An empty or new folder to write the files to.")
    ] = None,
    zip: Annotated[Path | None, cyclopts.Parameter(help="A new zip file to write the files to.")] = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """List the files of a build at a moment, or write them to a folder or a zip file. Needs no sandbox.

    For example:

        nightshift files build-4f1c2a

        nightshift files build-4f1c2a --at turn:7 --to ./turn-7

        nightshift files build-4f1c2a --zip build.zip
    """
    if to is not None and zip is not None:
        raise WrongUsage("give --to or --zip")
    if zip is not None and zip.exists():
        raise WrongUsage(f"{zip} exists", hint="name a file that does not exist yet")
    if to is not None and to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise WrongUsage(f"{to} is not an empty folder", hint="name a folder that does not exist yet")
    async with open_snapshots(home, build) as snapshots:
        version, _, manifest = await snapshots.load(at)
        if to is None and zip is None:
            rows = [_row(entry) for entry in manifest.entries if entry.path != ROOT]
            if json:
                write_json({"version": version, "files": rows, "not_saved": dict(manifest.skipped)})
            for row in () if json else rows:
                write_line(f"{row['mode']}  {row['bytes']:>12,}  {row['path']}{row['suffix']}")
            return
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if to is None else to
            folder.mkdir(parents=True, exist_ok=True)
            missing = await checkout(snapshots.store, manifest, folder)
            if zip is not None:
                await asyncio.to_thread(write_zip, folder, zip)
    if json:
        place = {"folder": str(to)} if to is not None else {"zip": str(zip)}
        write_json({"version": version, **place, "files": manifest.files, "missing": missing})
    else:
        note(f"{manifest.files} files of version {version} are in {to or zip}")
    for path, reason in missing.items():
        note(f"{path}: {reason}")
    if any(path not in manifest.skipped for path in missing):
        raise SystemExit(Exit.ERROR)


def _row(entry: Entry) -> dict[str, Any]:
    suffix = {"directory": "/", "symlink": f" -> {entry.target}"}.get(entry.kind, "")
    return {
        "path": entry.path,
        "kind": entry.kind,
        "mode": f"{entry.mode:03o}" if entry.kind != "symlink" else "777",
        "bytes": entry.size,
        "target": entry.target,
        "suffix": suffix,
    }
