"""Starts the snapshotter: connects, subscribes to the build topic, and polls for pending snapshots."""

from functools import lru_cache
from typing import NoReturn

from nightshift.bus.port import Subscription
from nightshift.contracts.model import Owner, PendingKind
from nightshift.eventlog.migrate import role_of
from nightshift.sandboxes.settings import make_driver
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.servicekit import service
from nightshift.servicekit.application import application
from nightshift.servicekit.build_accounts import BuildAccounts
from nightshift.servicekit.connect import connect
from nightshift.snapshotter.adapters.sandbox_capture import SandboxCapture
from nightshift.snapshotter.handlers import Handlers
from nightshift.snapshotter.settings import SnapshotterSettings
from nightshift.snapshotter.usecases.snapshots import Snapshots

NAME = Owner.SNAPSHOTTER.value
ROLE = role_of(Owner.SNAPSHOTTER)

#: Seconds that a fetch may wait for more records. No agent waits for a snapshot, and making one takes longer.
_MAX_FETCH_DELAY_S = 0.1
#: For how many projects the stored blobs are remembered. Those of other projects are listed again.
_PROJECTS = 256


async def start(running: service.Service[SnapshotterSettings]) -> None:
    """Connect, subscribe to the build topic, and poll for pending snapshots."""
    settings = running.settings
    services = await connect(running, role=ROLE)

    @lru_cache(maxsize=_PROJECTS)
    def store_of(project_id: str) -> SnapshotStore:
        return SnapshotStore(services.objects, settings.project_key(project_id))

    workspaces = SandboxCapture(
        await make_driver(settings, creates=False), store_of, exclude=settings.snapshot_exclude
    )
    accounts = BuildAccounts(services.log)
    pool = await services.pool(settings.snapshot_parallel, accounts.of)
    handlers = Handlers(Snapshots(services.log, workspaces, settings.retries()), pool, accounts)
    services.poll(PendingKind.SNAPSHOT, handlers.on_pending, gate=pool)
    topic = settings.topics.build
    await services.consume(
        [
            Subscription(
                topic,
                settings.topics.group(NAME, topic),
                handlers.on_builds(),
                gate=pool,
                max_fetch_delay_s=_MAX_FETCH_DELAY_S,
            )
        ]
    )


#: Used by `faststream run nightshift.snapshotter.app:app`.
app = application(NAME, SnapshotterSettings.load, start)


def main() -> NoReturn:
    """Run the snapshotter and exit the process with its exit code."""
    service.run(NAME, SnapshotterSettings.load, start)
