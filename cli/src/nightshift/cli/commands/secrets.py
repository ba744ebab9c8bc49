"""`nightshift secrets`: stores, lists and removes the secrets that builds of an account may use."""

import os
import sys
from pathlib import Path
from typing import Annotated

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import write_json, write_result, write_table
from nightshift.eventlog.errors import NotFound, Refused
from nightshift.sandboxes.egress.secret_store import SecretStore

app = cyclopts.App(name="secrets", help="Store, list and remove the secrets that builds may name.")

Account = Annotated[
    str, cyclopts.Parameter("--account", help="The account whose builds may name the secret.")
]
Name = Annotated[str, cyclopts.Parameter(help="The secret's name, and the variable that commands see.")]
Hosts = Annotated[list[str], cyclopts.Parameter("--host", negative=())]


def _store(home: Path) -> SecretStore:
    """Return the secret store of a sandbox gateway on this machine."""
    given = os.environ.get("NIGHTSHIFT_SECRETS_DIR")
    return SecretStore(Path(given) if given else home.absolute() / "secrets")


@app.command(name="set")
def set_(
    name: Name,
    *,
    account: Account,
    host: Hosts,
    from_file: Path | None = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Store a secret, or its next value. Builds that run use it from their next request on.

    The value is read from standard input or a file, never from the command line. For example:

        nightshift secrets set STRIPE_KEY --account family --host api.stripe.com < key.txt

    Args:
        host: A host that gets the value; repeat it for several.
        from_file: The file that holds the value.
    """
    if from_file is None and sys.stdin.isatty():
        raise WrongUsage("no value is given", hint="pipe it in (`< key.txt`), or give --from-file")
    try:
        value = from_file.read_text(encoding="utf-8") if from_file is not None else sys.stdin.read()
    except (OSError, UnicodeError) as error:
        raise WrongUsage(f"the value cannot be read: {type(error).__name__}") from None
    try:
        stored = _store(home).put(account, name, value.strip("\r\n"), host)
    except Refused as error:
        raise WrongUsage(str(error)) from None
    hosts = sorted(stored.hosts)
    text = f"stored {name} for {account}; requests to {', '.join(hosts)} get it"
    write_result({"account_id": account, "name": name, "hosts": hosts}, text, as_json=json)


@app.command(name="list")
def list_(*, account: Account, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """List the secrets of an account with their hosts, without their values.

    For example:

        nightshift secrets list --account family
    """
    store = _store(home)
    found = [(name, store.get(account, name)) for name in store.names(account)]
    rows = [(name, sorted(secret.hosts)) for name, secret in found if secret is not None]
    if json:
        write_json([{"name": name, "hosts": hosts} for name, hosts in rows])
    else:
        write_table(("NAME", "HOSTS"), [(name, ", ".join(hosts)) for name, hosts in rows])


@app.command(name="rm")
def remove(name: Name, *, account: Account, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Remove a secret. Builds that name it wait until it is stored again.

    For example:

        nightshift secrets rm STRIPE_KEY --account family
    """
    if not _store(home).remove(account, name):
        raise NotFound(
            f"{account} has no secret {name}", hint=f"`nightshift secrets list --account {account}`"
        )
    write_result({"account_id": account, "name": name}, f"removed {name}", as_json=json)
