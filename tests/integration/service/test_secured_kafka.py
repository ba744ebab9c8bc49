"""A service on Apache Kafka with TLS, SASL and ACLs: it runs with the rights that it needs, and no others help it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest
from tests.integration.service.conftest import Running, StartService
from tests.support.certificates import make_certificates
from tests.support.stack import Database, fresh_topics
from tests.support.waiting import eventually

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Outgoing
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.cloudevents import encode_request
from nightshift.contracts.events.account import AccountOpened
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress

pytestmark = [pytest.mark.kafka, pytest.mark.long, pytest.mark.timeout(240)]

_ROOT = Path(__file__).parents[3]
_PASSWORD = "not-in-any-log"
_SECURED = """
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_budget="{password}" user_stranger="{password}";
listener.name.sasl_ssl.ssl.keystore.type=PEM
listener.name.sasl_ssl.ssl.keystore.location={keystore}
"""
#: Of the protocol: resources, operations, "allow", and the types of patterns.
_TOPIC, _GROUP = 2, 3
_READ, _WRITE, _DESCRIBE = 3, 4, 8
_ALLOW, _LITERAL, _PREFIXED = 3, 3, 4


@pytest.fixture
async def secured(
    kafka: KafkaAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Any, Path]]:
    """A node with a listener for users, and the file of its authority."""
    if kafka.embedded:
        pytest.skip("needs Apache Kafka: `make test-kafka` runs this")
    monkeypatch.syspath_prepend(str(_ROOT / "scripts"))
    server = import_module("kafka_server")
    made = make_certificates(tmp_path / "tls")
    keystore = tmp_path / "keystore.pem"
    keystore.write_text(made.key.read_text() + made.certificate.read_text() + made.authority.read_text())
    properties = _SECURED.format(password=_PASSWORD, keystore=keystore)
    node = server.Node(server.fetch(), tmp_path, secured=properties)
    process = await asyncio.to_thread(node.start)
    try:
        yield node, made.authority
    finally:
        await asyncio.to_thread(server.stop, process.pid)
        process.wait()  # reaped already; so that it is known to have ended


async def allow(bootstrap: str, user: str, topics: Topics) -> None:
    """Gives a user the rights of the budget service: its topics, its groups, and the dead letters."""
    read = [(topic, right) for topic in (topics.requests, topics.build) for right in (_READ, _DESCRIBE)]
    write = [(topics.dead_letter, right) for right in (_WRITE, _DESCRIBE)]
    rights = [(_TOPIC, topic, _LITERAL, right) for topic, right in (*read, *write)]
    rights.append((_GROUP, f"{topics.prefix}.budget.", _PREFIXED, _READ))
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for resource, name, pattern, right in rights:
            request = CreateAclsRequest(resource, name, pattern, f"User:{user}", "*", right, _ALLOW)
            answer = await admin._send_request(request)
            assert all(one[0] == 0 for one in answer.creation_responses), answer
    finally:
        await admin.close()


async def test_budget_runs_with_tls_sasl_and_its_own_rights_only(
    secured: tuple[Any, Path], start_service: StartService, database: Database
) -> None:
    node, authority = secured
    async with contextlib.AsyncExitStack() as stack:
        topics = await stack.enter_async_context(fresh_topics(node.bootstrap, keep=True))
        await allow(node.bootstrap, "budget", topics)

        async def start(**settings: str) -> Running:
            given = {
                "kafka_bootstrap": node.secured_bootstrap,
                "kafka_idempotence": "true",
                "kafka_adaptive_fetch": "false",
                "kafka_security_protocol": "SASL_SSL",
                "kafka_sasl_mechanism": "PLAIN",
                "kafka_sasl_username": "budget",
                "kafka_sasl_password": _PASSWORD,
                "kafka_ssl_ca_file": str(authority),
                "topic_prefix": topics.prefix,
                "postgres_dsn": database.dsn("nightshift_budget"),
                "group": "",
            }
            return await start_service(command=("-m", "nightshift.budget"), **{**given, **settings})

        budget, wrong, stranger = await asyncio.gather(
            start(), start(kafka_sasl_password="wrong-password"), start(kafka_sasl_username="stranger")
        )
        await eventually(lambda: "service.started" in budget.log(), 60, what="started")
        settings = KafkaSettings(kafka_bootstrap=node.bootstrap, topic_prefix=topics.prefix)
        opened = AccountOpened(
            account_id="a1", period_budget_microusd=1_000_000, period_days=1, time_zone="UTC"
        )
        message = encode_request(opened, id="1", source="/test")
        async with KafkaProducer(settings, client_id="test") as producer:
            await producer.send([Outgoing.of(topics.requests, message)])
        await eventually(lambda: _has_account(database), 60, what="the account")
        for refused in (wrong, stranger):
            async with asyncio.timeout(60):
                assert await refused.process.wait() == 4, refused.log()
        assert "the broker refuses the credentials" in wrong.log()
        assert "ACLs hide them" in stranger.log() or "refuses the credentials" in stranger.log()
        assert not any(_PASSWORD in one.log() for one in (budget, wrong, stranger))


async def _has_account(database: Database) -> bool:

    connection = await asyncpg.connect(database.dsn())
    try:
        return bool(
            await connection.fetchval("SELECT count(*) FROM nightshift.accounts WHERE account_id = 'a1'")
        )
    finally:
        await connection.close()
