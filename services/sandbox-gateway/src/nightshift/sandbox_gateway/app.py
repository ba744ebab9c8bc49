"""Starts the sandbox gateway. This is the only place that makes its clients."""

import time
from functools import lru_cache
from typing import NoReturn

from nightshift.contracts.model import Owner, PendingKind
from nightshift.eventlog.fold_cache import FoldCache
from nightshift.eventlog.migrate import role_of
from nightshift.sandbox_gateway.adapters.preview_probe import HttpPreviewProbe
from nightshift.sandbox_gateway.adapters.preview_server import PreviewServer
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState, evolve
from nightshift.sandbox_gateway.handlers import Handlers
from nightshift.sandbox_gateway.ports import PreviewLink
from nightshift.sandbox_gateway.settings import GatewaySettings
from nightshift.sandbox_gateway.usecases.build_worker import BuildWorker
from nightshift.sandbox_gateway.usecases.call_dispatcher import CallDispatcher
from nightshift.sandbox_gateway.usecases.call_runner import CallRunner
from nightshift.sandbox_gateway.usecases.failpoints import FailPoints
from nightshift.sandbox_gateway.usecases.network import NetworkPolicy
from nightshift.sandbox_gateway.usecases.orphan_sweeper import OrphanSweeper
from nightshift.sandbox_gateway.usecases.result_writer import ResultWriter
from nightshift.sandbox_gateway.usecases.sandbox_lifecycle import SandboxLifecycle
from nightshift.sandbox_gateway.usecases.source_delivery import SourceDelivery
from nightshift.sandbox_gateway.usecases.stall_reporter import StallReporter
from nightshift.sandboxes.egress.process import EgressProcess
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.port import SandboxDriver
from nightshift.sandboxes.settings import make_driver
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.servicekit import service
from nightshift.servicekit.application import application
from nightshift.servicekit.build_accounts import BuildAccounts
from nightshift.servicekit.connect import connect

NAME = Owner.SANDBOX_GATEWAY.value
ROLE = role_of(Owner.SANDBOX_GATEWAY)


async def start(running: service.Service[GatewaySettings]) -> None:
    """Connect, subscribe to the topics, and poll the log for pending work."""
    settings = running.settings
    store = SecretStore(settings.secret_directory)
    driver = await make_driver(settings, await _egress(running))
    services = await connect(running, role=ROLE)
    log, objects, leases = services.log, services.objects, await services.leases()
    fail = FailPoints(settings.fail_point)
    stores = lru_cache(256)(lambda project: SnapshotStore(objects, settings.project_key(project)))
    probe = await running.enter(HttpPreviewProbe())
    accounts = BuildAccounts(log)
    pool = await services.pool(settings.gateway_builds, accounts.of)

    states = FoldCache(log, SandboxState, evolve)
    stalls = StallReporter(log, states)
    network = NetworkPolicy(settings.reachable_hosts, store, settings.driver_name)
    lifecycle = SandboxLifecycle(log, driver, stores, stalls, fail, network, settings.gateway_preview_s)
    writer = ResultWriter(log, objects, store.values, fail)
    worker = BuildWorker(
        states=states,
        leases=leases,
        owner=settings.lease_owner,
        lifecycle=lifecycle,
        calls=CallRunner(
            lifecycle,
            writer,
            probe,
            SourceDelivery(lifecycle, objects),
            await _previews(running, driver),
        ),
        stalls=stalls,
        lease_s=settings.gateway_lease_s,
        takes_no_more=lambda: running.stopping.is_set() or services.reporter.drained,
    )
    dispatcher = CallDispatcher(pool, worker, accounts)
    for kind in (PendingKind.TOOL_CALL, PendingKind.SANDBOX):
        services.poll(kind, dispatcher.dispatch_pending, gate=pool, every_s=settings.gateway_look_s)
    sweeper = OrphanSweeper(driver, leases, states, settings.lease_owner)
    running.spawn(sweeper.run(settings.gateway_look_s), name="sweeper")
    await services.consume(Handlers(dispatcher).subscriptions(settings.topics, NAME, pool))


async def _previews(running: service.Service[GatewaySettings], driver: SandboxDriver) -> PreviewLink:
    """Start the preview server if the settings ask for one.

    Returns a function that makes the signed URL for a sandbox id and a port. Without a preview server, that function
    returns None.
    """
    settings = running.settings
    links = settings.preview_links()
    if settings.preview_base is None or links is None:
        return lambda _sandbox_id, _port: None
    host, _, port = settings.preview_listen.rpartition(":")
    await running.enter(PreviewServer(driver, links, host=host, port=int(port)))
    return lambda sandbox_id, port: links.link(
        sandbox_id, port, expires=int(time.time()) + settings.preview_link_s
    )


async def _egress(running: service.Service[GatewaySettings]) -> EgressProcess | None:
    """Start the egress proxy. Returns None when sandboxes do not use it: they are not local, or have no network."""
    settings = running.settings
    if settings.driver_name != "local" or settings.reachable_hosts is None:
        return None
    bound = {"service": f"{NAME}/egress", "replica": settings.replica_id}
    options = {"level": settings.log_level, "format": settings.log_format, "bound": bound}
    directory = settings.local().state_dir.parent / "egress"
    return await running.enter(EgressProcess(directory, settings.secret_directory, logs=options))


#: Used by `faststream run nightshift.sandbox_gateway.app:app`.
app = application(NAME, GatewaySettings.load, start)


def main() -> NoReturn:
    """Run the sandbox gateway and exit the process with its exit code."""
    service.run(NAME, GatewaySettings.load, start)
