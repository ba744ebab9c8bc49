"""A model whose SDK is loaded in the background, so that the service is ready earlier."""

import asyncio
from collections.abc import Callable
from typing import Self

from nightshift.orchestrator.domain.commands import Answer
from nightshift.orchestrator.ports import ClosingModel, UsageMeter


class LazyModel:
    """The port Model over a model that is loaded in a thread. Calls wait until the model is loaded.

    An async context manager: entering it starts the loading, and leaving it closes the model. `failed` is an asyncio
    event that is set when `load` raises.
    """

    def __init__(self, load: Callable[[], ClosingModel]) -> None:
        self._load = load
        self._loading: asyncio.Future[ClosingModel] | None = None
        self.failed = asyncio.Event()

    @classmethod
    def of_claude(cls, base_url: str | None, *, silence_s: float) -> Self:
        """Return a model that loads ClaudeModel with these arguments."""

        def load() -> ClosingModel:
            # Imported here, because loading Anthropic's SDK takes longer than starting the rest of the service.
            from nightshift.orchestrator.adapters.claude import ClaudeModel  # noqa: PLC0415

            return ClaudeModel(base_url=base_url, silence_s=silence_s)

        return cls(load)

    async def __aenter__(self) -> Self:
        self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        self._loading.add_done_callback(self._loaded)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._loading is not None and not self.failed.is_set():
            await (await self._loading).close()

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        """Send this request body, and read the streamed answer to its end. Raises CallError when there is no answer.

        `meter` is told the token counts as soon as the provider states them.
        """
        return await (await self._loaded_model()).answer(body, meter)

    async def count(self, body: bytes) -> int:
        """Return the number of tokens of the prompt in this request body. Raises CallError when there is no count."""
        return await (await self._loaded_model()).count(body)

    async def _loaded_model(self) -> ClosingModel:
        if self._loading is None:
            raise RuntimeError("the model was not entered")
        return await asyncio.shield(self._loading)

    def _loaded(self, loading: "asyncio.Future[ClosingModel]") -> None:
        if loading.cancelled() or loading.exception() is not None:
            self.failed.set()
