"""Files: whole files over HTTP, and Stat, ListDir, MakeDir, Move and Remove as Connect calls."""

import base64
import errno
import hashlib
import os
import pwd
import shutil
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime
from email import message_from_bytes, policy
from grp import getgrgid
from pathlib import Path
from typing import Any

from .http import Exchange
from .rpc_error import RpcError


def resolve(path: str, user: pwd.struct_passwd) -> str:
    """Return the absolute path. A relative path begins at the user's home. Raises RpcError for `~other`."""
    if path.startswith("~"):
        if path[1:2] not in ("", "/", "\\"):
            raise RpcError("invalid_argument", "cannot expand user-specific home dir")
        path = user.pw_dir + path[1:]
    return path if path.startswith("/") else os.path.normpath(os.path.join(user.pw_dir, path))


async def files(ex: Exchange, token: str) -> None:
    """Read or write whole files. Without the token's header a signature of the path is needed."""
    path, name = ex.query.get("path", ""), ex.query.get("username") or "user"
    operation = "write" if ex.method == "POST" else "read"
    if not _allowed(ex, token, path, operation):
        await ex.problem(401, "missing or invalid access token or signature")
        return
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        await ex.problem(401, f"error looking up user '{name}': user: unknown user {name}")
        return
    try:
        if operation == "write":
            await ex.json(200, _write(ex, user))
        else:
            await _read(ex, resolve(path, user))
    except RpcError as error:
        await ex.problem(400, f"error resolving path: {error}")
    except _Refused as error:
        await ex.problem(error.status, str(error))


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _allowed(ex: Exchange, token: str, path: str, operation: str) -> bool:
    given = ex.headers.get("x-access-token")
    if not token or given:
        return not token or given == token
    until = ex.query.get("signature_expiration")
    if until is not None and int(until) < time.time():
        return False
    parts = [path, operation, ex.query.get("username", ""), token, *([until] if until else [])]
    digest = hashlib.sha256(":".join(parts).encode()).digest()
    wanted = f"v1_{base64.b64encode(digest).rstrip(b'=').decode()}"
    return ex.query.get("signature") == wanted


async def _read(ex: Exchange, path: str) -> None:
    try:
        if os.path.isdir(path):
            raise _Refused(400, f"path '{path}' is a directory")
        body = Path(path).read_bytes()
    except FileNotFoundError:
        raise _Refused(404, f"path '{path}' does not exist") from None
    except OSError as error:
        raise _Refused(500, f"error opening file '{path}': {error.strerror}") from None
    await ex.send(200, body, {"Content-Type": "application/octet-stream"})


def _write(ex: Exchange, user: pwd.struct_passwd) -> list[dict[str, Any]]:
    """Store the body: one file as it is, or the parts named `file` of a form, each where its file name says."""
    kind = ex.headers.get("content-type", "")
    given = ex.query.get("path")
    if kind.startswith("application/octet-stream"):
        if given is None:
            raise _Refused(400, "path is required for octet-stream uploads")
        parts = [(given, ex.body)]
    else:
        head = f"Content-Type: {kind}\r\nMIME-Version: 1.0\r\n\r\n".encode()
        form = message_from_bytes(head + ex.body, policy=policy.HTTP)
        if not form.is_multipart():
            raise _Refused(
                400, "error parsing multipart form: request Content-Type isn't multipart/form-data"
            )
        parts = []
        for part in form.iter_parts():
            if part.get_param("name", header="content-disposition") == "file":
                data = part.get_payload(decode=True)
                parts.append((given or part.get_filename() or "", data if isinstance(data, bytes) else b""))
    stored: dict[str, dict[str, Any]] = {}
    for name, data in parts:
        path = resolve(name, user)
        if path in stored:
            raise _Refused(400, f"you cannot upload multiple files to the same path '{path}'")
        _store(path, data)
        stored[path] = {"name": os.path.basename(path), "type": "file", "path": path}
    return list(stored.values())


def _store(path: str, data: bytes) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.isdir(path):
            raise _Refused(400, f"path is a directory: {path}")
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _Refused(507, "not enough disk space available") from None
        raise _Refused(500, f"error opening file: open {path}: {error.strerror}") from None


def call(name: str, asked: dict[str, Any], user: pwd.struct_passwd) -> dict[str, Any]:
    """Answer a unary call."""
    if name == "Move":
        source, target = resolve(asked["source"], user), resolve(asked["destination"], user)
        if not os.path.lexists(source):
            raise RpcError("not_found", f"source file not found: {source}")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _guarded(os.rename, source, target)
        return {"entry": _entry(target)}
    path = resolve(asked.get("path", ""), user)
    match name:
        case "Stat":
            return {"entry": _entry(path)}
        case "ListDir":
            return {"entries": _listed(path, asked.get("depth") or 1)}
        case "MakeDir":
            if os.path.isdir(path):
                raise RpcError("already_exists", f"directory already exists: {path}")
            if os.path.exists(path):
                raise RpcError("invalid_argument", f"path already exists but it is not a directory: {path}")
            _guarded(os.makedirs, path)
            return {"entry": _entry(path)}
        case "Remove":
            if os.path.isdir(path) and not os.path.islink(path):
                _guarded(shutil.rmtree, path)
            else:
                with suppress(FileNotFoundError):
                    _guarded(os.unlink, path)
            return {}
    raise RpcError("unimplemented", f"this server has no call {name}")


def _guarded(do: Any, *arguments: str) -> None:
    try:
        do(*arguments)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RpcError("internal", f"{do.__name__} {arguments[0]}: {error.strerror}") from None


def _listed(path: str, depth: int) -> list[dict[str, Any]]:
    real = os.path.realpath(path)
    if not os.path.lexists(real):
        raise RpcError("not_found", f"path not found: {path}")
    if not os.path.isdir(real):
        raise RpcError("invalid_argument", f"path is not a directory: {real}")
    found: list[dict[str, Any]] = []
    for folder, directories, names in os.walk(real):
        below = os.path.relpath(folder, real)
        level = 0 if below == "." else below.count("/") + 1
        if level >= depth:
            directories.clear()
            continue
        for name in sorted([*directories, *names]):
            shown = os.path.normpath(os.path.join(path, below, name))
            found.append({**_entry(os.path.join(folder, name)), "path": shown})
    return found


def _entry(path: str) -> dict[str, Any]:
    """Describe an entry. A link is described by its target, and names it."""
    try:
        own = os.lstat(path)
    except FileNotFoundError:
        raise RpcError("not_found", f"file not found: lstat {path}: no such file or directory") from None
    known = own
    link: dict[str, Any] = {}
    if stat.S_ISLNK(own.st_mode):
        link = {"symlinkTarget": os.path.realpath(path)}
        with suppress(OSError):
            known = os.stat(path)
    kind = "FILE_TYPE_DIRECTORY" if stat.S_ISDIR(known.st_mode) else "FILE_TYPE_FILE"
    return {
        "name": os.path.basename(path),
        "type": kind,
        "path": path,
        "size": str(known.st_size),
        "mode": stat.S_IMODE(known.st_mode),
        "permissions": stat.filemode(known.st_mode),
        "owner": _name(known.st_uid),
        "group": _group(known.st_gid),
        "modifiedTime": datetime.fromtimestamp(known.st_mtime, UTC).isoformat().replace("+00:00", "Z"),
        **link,
    }


def _name(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _group(gid: int) -> str:
    with suppress(KeyError):
        return getgrgid(gid).gr_name
    return str(gid)
