"""The driver for E2B, on E2B's SDK. Each request starts the agent program in the sandbox anew.

At E2B a timeout ends only a command's direct child, unread output is lost, sandboxes disappear, and stdout is text. So
our own supervisor runs each command, large data goes through files, and every connect checks the sandbox again.
"""

import asyncio
import base64
import json
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import NAMESPACE_URL, uuid4, uuid5

import httpx
from e2b import (
    ALL_TRAFFIC,
    AsyncSandbox,
    AuthenticationException,
    CommandExitException,
    NotEnoughSpaceException,
    NotFoundException,
    SandboxException,
    SandboxNetworkOpts,
    SandboxQuery,
    TemplateException,
    TimeoutException,
)
from e2b.exceptions import (
    RateLimitException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    ServiceBusyException,
)
from e2b.sandbox.filesystem.filesystem import WriteEntry

from nightshift.sandboxes import agent
from nightshift.sandboxes.agent.once import REQUEST_PART
from nightshift.sandboxes.agent.wire import json_frame
from nightshift.sandboxes.answers import ByteSource
from nightshift.sandboxes.byte_sources import ChunkReader, in_memory
from nightshift.sandboxes.client import AgentSandbox
from nightshift.sandboxes.errors import (
    AnswerCut,
    CallRecordLost,
    ProviderRefused,
    SandboxGone,
    SandboxUnavailable,
)
from nightshift.sandboxes.port import HOME, DriverName, HostTraffic, NetworkRules, SandboxInfo

_STATE = f"{HOME}/.nightshift"
#: E2B runs commands in a login shell. With this home the shell finds no profile, which a command of the build could
#: have changed.
_SHELL_HOME = "/nonexistent"
_BOOT = (
    f"import os,sys;os.environ['HOME']={HOME!r};sys.path.insert(0,{_STATE!r});"
    "from agent.main import main;main(sys.argv[1:])"
)
#: One environment variable may have 128 KiB in the kernel.
_PART_CHARS = 96 * 1024
_SPOOL_BYTES = 8 * 1024 * 1024
#: HTTP statuses after which E2B will refuse the same request again: unknown template, lifetime above the plan, no
#: credit.
_REFUSED = frozenset((400, 402, 403, 404, 422))
#: The exit code of a shell for a program that does not exist.
_NOT_FOUND = 127
#: Errors of the SDK after which a later attempt may succeed.
_PASSING = (TimeoutException, RateLimitException, ServiceBusyException, httpx.HTTPError)


@dataclass(frozen=True, slots=True)
class E2BOptions:
    """How to reach E2B, and how sandboxes are created. E2B ends a sandbox after `lifetime_s` seconds without use."""

    api_key: str
    owner: str = "nightshift"
    template: str | None = None
    lifetime_s: int = 3600
    internet: bool = False
    api_url: str | None = None
    sandbox_url: str | None = None

    def api(self) -> dict[str, Any]:
        given = {"api_key": self.api_key, "api_url": self.api_url, "sandbox_url": self.sandbox_url}
        return {name: value for name, value in given.items() if value}


class E2BDriver:
    """The SandboxDriver port on E2B. The E2B template needs bash and python3 (3.8 or newer). E2B's base has both."""

    name: DriverName = "e2b"

    def __init__(self, options: E2BOptions) -> None:
        self._options = options

    async def create(
        self,
        build_id: str,
        *,
        generation: int,
        metadata: Mapping[str, str] | None = None,
        network: NetworkRules | None = None,
    ) -> AgentSandbox:
        tags = {"build": build_id, "generation": str(generation), "owner": self._options.owner}
        if existing := await self._listed(tags):
            box = await self._connected(existing[0].sandbox_id)
        else:
            box = await self._created(tags, metadata or {}, network)
            await self._install(box)
        sandbox = self._sandbox(box)
        try:
            await self._hello(sandbox, box, generation=f"{build_id}/{generation}/{box.sandbox_id}")
        except _Broken as error:
            if not isinstance(error.__cause__, _NoPython):
                raise
            await self.kill(box.sandbox_id)
            template = self._options.template or "the default template"
            raise ProviderRefused(
                f"E2B's template has no python3 ({template}), which the agent in a sandbox needs",
                hint="build the template with python3 (deploy/e2b has one), set E2B_TEMPLATE, then restart the gateway",
            ) from error
        return sandbox

    async def _created(
        self, tags: Mapping[str, str], metadata: Mapping[str, str], network: NetworkRules | None
    ) -> AsyncSandbox:
        # The same key for the same generation, so that a repeated create after a lost answer makes no second sandbox.
        key = uuid5(NAMESPACE_URL, f"nightshift/{tags['owner']}/{tags['build']}/{tags['generation']}")
        try:
            with _errors():
                return await AsyncSandbox.create(
                    template=self._options.template,
                    timeout=self._options.lifetime_s,
                    metadata={**metadata, **tags},
                    allow_internet_access=self._options.internet or network is not None,
                    network=None if self._options.internet else _network(network),
                    idempotency_key=str(key),
                    **self._options.api(),
                )
        except SandboxUnavailable as error:
            raise self._final(error, "create") from error

    def _final(self, error: SandboxUnavailable, what: str) -> Exception:
        """Return ProviderRefused if E2B will always refuse the request `what`, otherwise return `error`."""
        cause = error.__cause__
        if not isinstance(cause, TemplateException | NotFoundException) and not (
            isinstance(cause, SandboxException) and cause.status_code in _REFUSED
        ):
            return error
        template = self._options.template or "the default template"
        return ProviderRefused(
            f"E2B refuses to {what} a sandbox: {cause}",
            hint=f"check E2B_TEMPLATE ({template}), NIGHTSHIFT_E2B_LIFETIME_S"
            f" ({self._options.lifetime_s} s) and the plan of the account, then restart the gateway",
        )

    async def _install(self, box: AsyncSandbox) -> None:
        files: list[WriteEntry] = [
            {"path": f"{_STATE}/agent/{path.name}", "data": path.read_bytes()}
            for path in sorted(Path(agent.__file__).parent.glob("*.py"))
        ]
        with _errors():
            await box.files.write_files(files, use_octet_stream=True)

    async def connect(self, sandbox_id: str, *, network: NetworkRules | None = None) -> AgentSandbox:
        box = await self._connected(sandbox_id)
        sandbox = self._sandbox(box)
        try:
            found = await self._hello(sandbox, box)
        except _Broken as error:
            raise CallRecordLost(f"sandbox {sandbox_id}: its agent cannot be started: {error}") from error
        if found is None:
            raise CallRecordLost(f"sandbox {sandbox_id} has lost its record of the calls that ran in it")
        if not found.endswith(f"/{sandbox_id}"):
            raise CallRecordLost(f"sandbox {sandbox_id} has the record of calls of another sandbox")
        return sandbox

    async def _connected(self, sandbox_id: str) -> AsyncSandbox:
        try:
            with _errors():
                box = await AsyncSandbox.connect(
                    sandbox_id, timeout=self._options.lifetime_s, **self._options.api()
                )
                if not await box.is_running():
                    raise SandboxGone(f"sandbox {sandbox_id} does not run")
        except SandboxUnavailable as error:
            raise self._final(error, "connect to") from error
        return box

    async def _hello(
        self, sandbox: AgentSandbox, box: AsyncSandbox, *, generation: str | None = None
    ) -> str | None:
        """Return the generation in the sandbox's journal, or None when the journal is missing.

        Installs the agent program again when it does not answer, because commands may have changed it. Raises _Broken
        when it still does not answer. Only `create` passes `generation`, from which a missing journal is made.
        """
        with suppress(AnswerCut):
            return await sandbox.hello(generation=generation)
        try:
            await self._install(box)
            return await sandbox.hello(generation=generation)
        except SandboxUnavailable as error:
            if not isinstance(error, AnswerCut) and isinstance(error.__cause__, _PASSING):
                raise
            raise _Broken(str(error)) from error

    def _sandbox(self, box: AsyncSandbox) -> AgentSandbox:
        return AgentSandbox(box.sandbox_id, "e2b", _Channel(box, self._options))

    async def _listed(self, tags: Mapping[str, str]) -> list[SandboxInfo]:
        found: list[SandboxInfo] = []
        with _errors():
            pages = AsyncSandbox.list(query=SandboxQuery(metadata=dict(tags)), **self._options.api())
            while pages.has_next:
                for info in await pages.next_items():
                    found.append(
                        SandboxInfo(info.sandbox_id, info.state.value, info.metadata, info.started_at)
                    )
        return found

    async def visited_at(self, sandbox_id: str) -> datetime | None:
        """Return None: visitors use E2B's own proxy, so this driver does not know when a preview was visited."""
        return None

    async def kill(self, sandbox_id: str) -> None:
        with _errors(gone_is_fine=True):
            await AsyncSandbox.kill(sandbox_id, **self._options.api())

    async def list(self) -> list[SandboxInfo]:
        return await self._listed({"owner": self._options.owner})


def _network(rules: NetworkRules | None) -> SandboxNetworkOpts | None:
    """Return E2B's network options for these rules. E2B allows host names only when all other traffic is denied."""
    return None if rules is None else {"allow_out": sorted(rules.hosts), "deny_out": [ALL_TRAFFIC]}


class _NoPython(AnswerCut):
    """The shell in the sandbox found no `python3`."""


class _Broken(SandboxUnavailable):
    """The sandbox runs, but its agent program does not answer, even after its files were installed again."""


def preview_behind(sandbox_url: str, route: str) -> str:
    """Return the URL of a preview behind the installation's own proxy. `route` is `<port>-<sandbox id>`.

    The route becomes the first label of the host name, as at E2B. IP addresses and localhost have no subdomains, so
    there it becomes the first part of the path.
    """
    parts = urlsplit(sandbox_url)
    host = parts.hostname or ""
    if host == "localhost" or ":" in host or host.replace(".", "").isdecimal():
        return f"{sandbox_url.rstrip('/')}/{route}/"
    return urlunsplit((parts.scheme, f"{route}.{parts.netloc}", "/", "", ""))


class _Channel:
    """The Channel (see client.py) to a sandbox at E2B. Each request starts the agent program there anew."""

    def __init__(self, box: AsyncSandbox, options: E2BOptions) -> None:
        self._box = box
        self._options = options
        self._extended = time.monotonic()

    @asynccontextmanager
    async def exchange(
        self, request: Mapping[str, Any], body: AsyncIterator[bytes] | None
    ) -> AsyncIterator[ByteSource]:
        name = f"{_STATE}/io/{uuid4().hex}"
        with _errors():
            async with self._kept_alive():
                try:
                    if body is not None:
                        await self._upload(f"{name}.in", body)
                except NotEnoughSpaceException as error:
                    yield in_memory(json_frame({"error": "denied", "message": f"the disk is full: {error}"}))
                    return
                answer = await self._run(request, f"{name}.out", f"{name}.in" if body is not None else "")
                if body is not None:
                    await self._box.files.remove(f"{name}.in")
                if "inline" in answer:
                    yield in_memory(base64.b64decode(answer["inline"]))
                    return
                stream = await self._box.files.read(f"{name}.out", format="stream")
                try:
                    yield ChunkReader(stream)
                finally:
                    await self._box.files.remove(f"{name}.out")

    async def _run(self, request: Mapping[str, Any], answer_path: str, body_path: str) -> dict[str, str]:
        """Run the agent program once and return its answer.

        The request is in environment variables, because the disk may be full.
        """
        asked = base64.b64encode(json.dumps(request).encode()).decode()
        parts = [asked[at : at + _PART_CHARS] for at in range(0, len(asked), _PART_CHARS)]
        environment = {f"{REQUEST_PART}{number}": part for number, part in enumerate(parts)}
        arguments = ["once", HOME, answer_path, body_path, str(len(parts))]
        command = shlex.join(["python3", "-I", "-S", "-c", _BOOT, *arguments])
        try:
            # timeout=0: our client limits the time of the whole exchange. E2B's timeout would leave grandchildren
            # running.
            done = await self._box.commands.run(command, timeout=0, envs={"HOME": _SHELL_HOME, **environment})
            answer: dict[str, str] = json.loads(done.stdout)
        except CommandExitException as error:
            kind = _NoPython if error.exit_code == _NOT_FOUND else AnswerCut
            raise kind(f"the sandbox's agent ended with {error.exit_code}: {error.stderr[-500:]}") from error
        except ValueError as error:
            raise AnswerCut("the sandbox's agent answers nonsense") from error
        return answer

    async def _upload(self, path: str, body: AsyncIterator[bytes]) -> None:
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            async for part in body:
                await asyncio.to_thread(spool.write, part)
            spool.seek(0)
            file: IO[bytes] = spool
            await self._box.files.write(path, file)

    @asynccontextmanager
    async def _kept_alive(self) -> AsyncIterator[None]:
        """Extend the sandbox's lifetime at E2B during the block: after each third of it, and at the start if a third
        has passed since the last extension.
        """
        third = self._options.lifetime_s / 3
        if time.monotonic() - self._extended > third:
            await self._extend()

        async def extend_while_open() -> None:
            while True:
                await asyncio.sleep(third)
                with suppress(*_PASSING, SandboxException):  # the exchange itself raises the error
                    await self._extend()

        extending = asyncio.create_task(extend_while_open())
        try:
            yield
        finally:
            extending.cancel()

    async def _extend(self) -> None:
        await self._box.set_timeout(self._options.lifetime_s)
        self._extended = time.monotonic()

    async def open_port(self, port: int) -> str:
        if self._options.sandbox_url is None:
            return f"https://{self._box.get_host(port)}/"
        return preview_behind(self._options.sandbox_url, f"{port}-{self._box.sandbox_id}")

    async def take_traffic(self) -> Sequence[HostTraffic]:
        return []

    async def group_usage(self) -> None:
        return None

    async def pause(self) -> None:
        with _errors():
            await self._box.pause()

    async def kill(self) -> None:
        with _errors(gone_is_fine=True):
            await self._box.kill()

    async def alive(self) -> bool:
        with _errors():
            return await self._box.is_running()


@contextmanager
def _errors(*, gone_is_fine: bool = False) -> Any:
    """Translate the SDK's errors to those of the port. If `gone_is_fine`, ignores that the sandbox is gone or does not
    run.
    """
    try:
        yield
    except (SandboxNotFoundException, SandboxNotRunningException) as error:
        if not gone_is_fine:
            raise SandboxGone(f"E2B: {error}") from error
    except AuthenticationException as error:
        raise ProviderRefused(
            f"E2B: {error}", hint="set E2B_API_KEY to a valid key, then restart the gateway"
        ) from error
    except NotFoundException as error:
        raise SandboxUnavailable(f"E2B: {error}") from error
    except (SandboxException, ServiceBusyException, httpx.HTTPError, OSError) as error:
        if isinstance(error, SandboxException) and "Invalid sandbox ID" in str(error):
            raise SandboxGone(f"E2B: {error}") from error
        raise SandboxUnavailable(f"E2B: {type(error).__name__}: {error}") from error
