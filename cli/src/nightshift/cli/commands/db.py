"""`nightshift db`: migrates the event log's database, shows its migrations, and sets the passwords of its roles."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json, settings_for
from nightshift.cli.exits import Exit
from nightshift.cli.output import note, write_json, write_line, write_table
from nightshift.devstack.parts import SUPERUSER
from nightshift.eventlog import roles as database_roles
from nightshift.eventlog.errors import NotFound, Refused
from nightshift.eventlog.migrate import check as check_migration
from nightshift.eventlog.migrate import migrate as migrate_database
from nightshift.eventlog.migrate import status as database_status
from nightshift.eventlog.settings import PostgresSettings
from nightshift.servicekit import logs

app = cyclopts.App(
    name="db", help="Migrate the event log's database, show its migrations, set its passwords."
)


@app.command
async def migrate(
    *,
    check: Annotated[bool, cyclopts.Parameter(negative=())] = False,
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Migrate the database to this release: roles, tables, functions, event types.

    Several replicas may run it at the same time, and again. NIGHTSHIFT_POSTGRES_DSN must name a superuser, or a role
    that may create roles and schemas. A database of a newer release is not changed.

    For example:

        nightshift db migrate --check && nightshift db migrate

    Args:
        check: Migrate and undo it, and print what would be applied. Fails where a migration would fail, and with exit
            code 4 when the database belongs to a newer release.
    """
    names = await (check_migration if check else migrate_database)(_dsn(home))
    if json:
        write_json({"waiting" if check else "applied": list(names)})
        return
    for name in names:
        write_line(name)
    note(f"{len(names)} {'to apply' if check else 'applied'}" if names else "nothing to apply")


@app.command
async def status(*, json: Json = False, home: Home = DEFAULT_HOME) -> int:
    """Show each migration: applied, waiting, changed since it was applied, or unknown to this release.

    Exits with 4 unless all migrations of this release are applied unchanged.

    For example:

        nightshift db status --json
    """
    states = await database_status(_dsn(home))
    if json:
        write_json([asdict(one) for one in states])
    else:
        rows = [(one.name, one.state, one.applied_at) for one in states]
        write_table(("MIGRATION", "STATE", "APPLIED"), rows)
    ready = all(one.state in ("applied", "unknown") for one in states)
    return Exit.OK if ready else Exit.CONFIGURATION


@app.command
async def roles(*, passwords: Path | None = None, json: Json = False, home: Home = DEFAULT_HOME) -> None:
    """List the database roles of the installation, or set their passwords.

    NIGHTSHIFT_POSTGRES_DSN must name a superuser, or the role that migrated the database. A role without a password can
    only log in where pg_hba.conf trusts it. The server gets a SCRAM verifier and never the password itself.

    For example:

        nightshift db roles --passwords /run/secrets/nightshift-roles

    Args:
        passwords: A folder with a file for each role, named after it with or without `nightshift_`, such as `relay`,
            that holds its password. Roles without a file keep theirs.
    """
    dsn = _dsn(home)
    if passwords is not None:
        given = _passwords(passwords)
        await database_roles.set_passwords(dsn, given)
        note(f"passwords set: {', '.join(sorted(given))}")
    found = await database_roles.roles(dsn)
    if json:
        write_json([asdict(one) for one in found])
    else:
        write_table(("ROLE", "LOGS IN"), [(one.name, "yes" if one.logs_in else "no") for one in found])


def _passwords(folder: Path) -> Mapping[str, str]:
    """Reads a password from each file in `folder`. Returns role → password.

    Leaves out files whose names begin with a dot, because Kubernetes adds such files. Raises NotFound for an
    unreadable folder.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
        texts = {
            path.name.removeprefix(database_roles.PREFIX): path.read_text(encoding="utf-8") for path in files
        }
        found = {database_roles.PREFIX + name: text.rstrip("\r\n") for name, text in texts.items()}
    except OSError as error:
        raise NotFound(f"{folder} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"a file in {folder} is not text") from error
    if not found:
        raise NotFound(f"{folder} holds no file", hint="name a file after each role, such as `relay`")
    return found


def _dsn(home: Path) -> str:
    logs.configure(level="warning", format="console")  # stdout is for data
    return settings_for(PostgresSettings, home, role=SUPERUSER).postgres_dsn.get_secret_value()
