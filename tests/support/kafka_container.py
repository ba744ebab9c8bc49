"""One node of Apache Kafka in a container, by its project's own image. Needs a Docker engine."""

import contextlib
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import docker
import pytest
from docker.errors import APIError, ImageNotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from nightshift.devstack.parts import KafkaAddress
from nightshift.devstack.ports import LOOPBACK, draw_port

IMAGE = "apache/kafka:4.1.0"
_CLIENTS, _CONTROLLER = 9092, 9093

#: KAFKA_<SETTING> becomes a line of the node's properties; with one of them set, the image's own defaults are gone.
_ENVIRONMENT = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_LISTENERS": f"PLAINTEXT://:{_CLIENTS},CONTROLLER://:{_CONTROLLER}",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": f"1@localhost:{_CONTROLLER}",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
}


@contextlib.contextmanager
def kafka_container() -> Iterator[KafkaAddress]:
    """Start it, and remove it with its data afterwards. Skips, with the reason, where it cannot be had."""
    try:
        _reach_engine()
    except OSError as error:
        pytest.skip(f"NIGHTSHIFT_KAFKA=testcontainers, but no Docker engine answers: {error}")
    _have(IMAGE)
    if not testcontainers_config.ryuk_disabled:  # the library's own, which removes what a killed run leaves
        _have(testcontainers_config.ryuk_image, hint="; TESTCONTAINERS_RYUK_DISABLED=true does without")
    # The library's KafkaContainer can run one vendor's image only, and not this one.
    port = draw_port()  # chosen before the start: the node has to tell it to its clients
    container = DockerContainer(IMAGE)
    # Its `with_bind_ports` would open the port to the network.
    container.ports[f"{_CLIENTS}/tcp"] = (LOOPBACK, port)
    container.with_envs(**_ENVIRONMENT, KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://{LOOPBACK}:{port}")
    container.waiting_for(LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(60))
    with container:
        yield KafkaAddress(f"{LOOPBACK}:{port}", idempotence=True, adaptive_fetch=False)


def _have(image: str, *, hint: str = "") -> None:
    """The image is on the engine, pulled where it was not: what is not to be had here is no failure of a test."""
    with contextlib.closing(docker.from_env()) as engine:
        try:
            engine.images.get(image)
        except ImageNotFound:
            try:
                engine.images.pull(image)
            except APIError as error:
                pytest.skip(
                    f"the image {image} is not on this Docker engine, nor can it pull it{hint}: {error}"
                )


def _reach_engine() -> None:
    """Connect and hang up. Not by the SDK: it leaves its socket open when that fails."""
    address = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if address.scheme == "unix":
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(address.path)
    else:
        socket.create_connection((address.hostname, address.port or 2375), timeout=5).close()
