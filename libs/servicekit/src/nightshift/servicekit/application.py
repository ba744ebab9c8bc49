"""Makes a service a FastStream application, so that `faststream run nightshift.budget.app:app` starts it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from faststream import FastStream

from nightshift.servicekit.service import Service, configure_logs
from nightshift.servicekit.settings import Settings

S = TypeVar("S", bound=Settings)


def application(
    name: str, load: Callable[[], S], start: Callable[[Service[S]], Awaitable[None]]
) -> FastStream:
    """Return a FastStream application that runs the service `name`. The service starts and stops with the application.

    At the start, `load` reads the settings, then `start` opens the service's connections and consumers. An error of
    either ends the start of the application. When the service fails later, the application exits.
    """

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        settings = load()
        configure_logs(name, settings)
        service = Service(name, settings)
        await service.start(start)
        for broker in service.brokers:
            app.add_broker(broker)
        watch = asyncio.create_task(_exit_when_stopping(service, app), name="exit when stopping")
        try:
            yield
        finally:
            watch.cancel()
            await service.close()

    app = FastStream(lifespan=lifespan)
    return app


async def _exit_when_stopping(service: Service[S], app: FastStream) -> None:
    await service.stopping.wait()
    app.exit()
