"""PostgreSQL over TLS: `sslmode=verify-full` encrypts, and refuses a server that another authority signed."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.certificates import Certificates, make_certificates
from tests.support.stack import session_folder

from nightshift.devstack.parts import UNSAFE_FAST, EmbeddedPostgres, PostgresAddress
from nightshift.devstack.parts.part_directory import find_part_directory
from nightshift.eventlog.database import Database, PgConfig
from nightshift.eventlog.errors import ConfigurationError

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

#: The embedded PostgreSQL is built without TLS.
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.fixture
async def secured() -> AsyncIterator[tuple[PostgresAddress, Certificates, Path]]:
    """A server with TLS only, its certificates, and another authority's."""
    if not PROGRAMS or shutil.which("openssl") is None:
        pytest.skip("needs Debian's postgresql and openssl")
    with session_folder() as folder:
        programs = PROGRAMS[-1].parent
        made = make_certificates(folder / "tls")
        stranger = make_certificates(folder / "stranger").authority
        owner = find_part_directory(folder / "postgres", programs).user
        if owner is not None:
            for path in (made.key, made.certificate):
                os.chown(path, owner, owner)
        made.key.chmod(0o600)
        settings = {**UNSAFE_FAST, "ssl": "on", "ssl_cert_file": str(made.certificate)}
        server = EmbeddedPostgres(
            folder / "postgres", settings={**settings, "ssl_key_file": str(made.key)}, programs=programs
        )
        address = await server.start()
        try:
            yield address, made, stranger
        finally:
            await server.stop()


async def test_verify_full_encrypts_and_refuses_another_authority(
    secured: tuple[PostgresAddress, Certificates, Path],
) -> None:
    address, made, stranger = secured

    def database(host: str, authority: Path) -> Database:
        dsn = f"postgresql://postgres@{host}:{address.port}/postgres"
        return Database(PgConfig(dsn=f"{dsn}?sslmode=verify-full&sslrootcert={authority}", patience=5))

    trusted = database("127.0.0.1", made.authority)
    rows = await trusted.fetch("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert rows[0][0] is True
    await trusted.close()
    for host, authority in (("127.0.0.1", stranger), ("localhost", made.authority)):
        with pytest.raises(ConfigurationError, match="certificate") as refused:
            await database(host, authority).fetch("SELECT 1")
        assert "sslrootcert" in str(refused.value.hint)
