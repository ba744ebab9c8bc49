"""The secrets that builds may name. Each is a file that only the operator and the sandbox gateway can read.

<directory>/<account id>/<NAME>.json {"value": …, "hosts": [host name, …], "earlier": [values before it]}
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nightshift.eventlog.errors import ConfigurationError, Refused
from nightshift.sandboxes.egress.hosts import reachable

_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_KEPT = 3
#: The fewest characters of a value: the mask of a shorter one would also hit ordinary words.
_SHORTEST = 8


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """The value of a secret, the hosts that may get it, and its earlier values, which the proxy also masks in
    answers.
    """

    value: str = field(repr=False)
    hosts: frozenset[str]
    earlier: tuple[str, ...] = field(default=(), repr=False)


class SecretStore:
    """The secrets in a directory. Reads a file again after it has changed, so running builds use a new value at
    once.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, tuple[tuple[int, int, int], StoredSecret]] = {}

    def get(self, account_id: str, name: str) -> StoredSecret | None:
        """Return the secret, or None when there is none. Raises ConfigurationError when the file cannot be read."""
        path = self._path(account_id, name)
        try:
            found = path.stat()
            version = (found.st_mtime_ns, found.st_ino, found.st_size)
            known = self._read.get(path)
            if known is None or known[0] != version:
                value = json.loads(path.read_text(encoding="utf-8"))
                hosts = reachable(map(str, value["hosts"]))
                secret = StoredSecret(str(value["value"]), hosts, tuple(map(str, value.get("earlier", ()))))
                self._read[path] = known = (version, secret)
        except FileNotFoundError:
            self._read.pop(path, None)
            return None
        except (OSError, ValueError, KeyError, TypeError, Refused) as error:
            # Raised without the cause, whose text may quote the file.
            raise ConfigurationError(
                f"the secret {name} of {account_id} cannot be read ({type(error).__name__})",
                hint=f"set it again: nightshift secrets set {name} --account {account_id} --host HOST",
            ) from None
        return known[1]

    def names(self, account_id: str) -> list[str]:
        """Return the names of the account's secrets, sorted."""
        found = self._path(account_id, "_").parent.glob("*.json")
        return sorted(path.stem for path in found if _NAME.fullmatch(path.stem))

    def values(self, account_id: str) -> Mapping[str, tuple[str, ...]]:
        """Return for each secret of the account its current value and all its earlier values, by name."""
        found = {name: self.get(account_id, name) for name in self.names(account_id)}
        return {name: (secret.value, *secret.earlier) for name, secret in found.items() if secret is not None}

    def put(self, account_id: str, name: str, value: str, hosts: Iterable[str]) -> StoredSecret:
        """Store the secret atomically, in a file of mode 0600. The previous value becomes an earlier value.

        Raises Refused for a value that is too short or not printable or without a host, and HostRefused for a wrong
        host name.
        """
        if len(value) < _SHORTEST or not value.isprintable():
            raise Refused(
                f"the value of {name} must have {_SHORTEST} printable characters at least, on one line"
            )
        before = self.get(account_id, name)
        earlier = (before.value, *before.earlier)[:_KEPT] if before is not None else ()
        if before is not None and before.value == value:
            earlier = before.earlier
        secret = StoredSecret(value, reachable(hosts), earlier)
        if not secret.hosts:
            raise Refused(f"{name} needs a host that may get it")
        path = self._path(account_id, name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = path.with_suffix(f".{os.getpid()}.new")
        with suppress(FileNotFoundError):
            new.unlink()
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"value": value, "hosts": sorted(secret.hosts), "earlier": list(earlier)}, file)
        new.rename(path)
        return secret

    def remove(self, account_id: str, name: str) -> bool:
        """Remove the secret. Returns False when there is none."""
        try:
            self._path(account_id, name).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, account_id: str, name: str) -> Path:
        if not _ACCOUNT.fullmatch(account_id):
            raise Refused(f"{account_id!r} is no account id")
        if not _NAME.fullmatch(name):
            raise Refused(f"{name!r} is no name of a secret: letters, digits and _, as a variable's name")
        return self._directory / account_id / f"{name}.json"
