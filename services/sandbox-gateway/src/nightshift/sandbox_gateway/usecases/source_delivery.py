"""Commits the work on a build's git source, one commit for each turn. Delivers the commits when the build is ready."""

from dataclasses import dataclass, field

import structlog

from nightshift.contracts.events.sandbox import SourceDelivered
from nightshift.eventlog.errors import EventIdReused
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import NewEvent
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState
from nightshift.sandbox_gateway.domain.text import Mask, printable
from nightshift.sandbox_gateway.usecases.sandbox_lifecycle import SandboxLifecycle
from nightshift.sandbox_gateway.usecases.tools.prepare import AS_THE_SOURCES_USER, branch
from nightshift.sandboxes.errors import FileRefused, SandboxGone
from nightshift.sandboxes.port import CallSpec, Sandbox

_log = structlog.get_logger(__name__)
_STEP_S = 300.0
_DETAIL = 2_000
_BUNDLE = "/tmp/nightshift-source.bundle"  # noqa: S108 - in the sandbox

#: Commits the workspace to a ref of our own with an index of our own, so that the agent's use of git is not affected.
_COMMIT = """
set -e
git rev-parse -q --verify refs/nightshift/work >/dev/null || exit 0
export GIT_INDEX_FILE=.git/nightshift-index
git add -A -- .
tree=$(git write-tree)
[ "$tree" = "$(git rev-parse 'refs/nightshift/work^{tree}')" ] && exit 0
trailers='Nightshift-Build: %s\\nNightshift-Position: %s\\n'
commit=$(printf "%s\\n\\n$trailers" "$SOURCE_TITLE" "$SOURCE_BUILD" "$SOURCE_POSITION" |
  git commit-tree "$tree" -p refs/nightshift/work)
git update-ref refs/nightshift/work "$commit"
"""
_COUNT = (
    "git rev-list --count refs/nightshift/base..refs/nightshift/work && git rev-parse refs/nightshift/work"
)
_PUSH = f"""
set -e
{AS_THE_SOURCES_USER}
git push -q --force "$SOURCE_REPOSITORY" "refs/nightshift/work:refs/heads/$SOURCE_BRANCH"
"""
_MAKE_BUNDLE = f"git bundle create -q {_BUNDLE} refs/nightshift/base..refs/nightshift/work"


@dataclass(frozen=True, slots=True)
class SourceDelivery:
    lifecycle: SandboxLifecycle
    objects: ObjectStore
    #: Build id → the newest checkpoint that this process committed.
    _committed: dict[str, int] = field(default_factory=dict)

    async def commit(self, state: SandboxState, sandbox: Sandbox) -> None:
        """Commit the files that the last turn changed.

        Does nothing for a build without a source, or when the checkpoint is committed already. A failure is only
        logged, because the files are in snapshots too.
        """
        if state.source is None or self._committed.get(state.build_id, 0) >= state.checkpoint:
            return
        await self._commit(state, sandbox, state.checkpoint, f"checkpoint-{state.checkpoint}")
        self._committed[state.build_id] = state.checkpoint

    async def _commit(self, state: SandboxState, sandbox: Sandbox, position: int, name: str) -> None:
        variables = {
            "SOURCE_TITLE": f"Nightshift build {state.build_id}",
            "SOURCE_BUILD": state.build_id,
            "SOURCE_POSITION": str(position),
        }
        code, said = await self._run(state, sandbox, name, _COMMIT, variables)
        if code:
            _log.warning(
                "source.not_committed", build_id=state.build_id, position=position, detail=said[-500:]
            )

    async def deliver(self, state: SandboxState) -> None:
        """Push the commits of a ready build, or store them as a git bundle. Appends source.delivered, once.

        Pushes only when the source names a secret, because a push needs the right to write.
        """
        if state.source is None or state.sandbox is None or state.to_deliver is None:
            return
        self._committed.pop(state.build_id, None)
        try:
            sandbox = await self.lifecycle.ready(state)
            await self._commit(state, sandbox, state.end_version, "commit")
            delivered = await self._delivered(state, sandbox)
        except SandboxGone as error:
            detail = f"the sandbox is gone: {error}"[:_DETAIL]
            delivered = SourceDelivered(
                branch=branch(state), commit=None, commits=0, pushed=False, detail=detail
            )
        try:
            await self.lifecycle.append(state, NewEvent(delivered, state.to_deliver))
        except EventIdReused:
            _log.info("source.delivered_before", build_id=state.build_id)

    async def _delivered(self, state: SandboxState, sandbox: Sandbox) -> SourceDelivered:
        code, said = await self._run(state, sandbox, "count", _COUNT, {})
        commits, commit = (
            (int(said.split()[0]), said.split()[1]) if not code and len(said.split()) == 2 else (0, None)
        )
        facts = {"branch": branch(state), "commit": commit, "commits": commits}
        if not commits:
            return SourceDelivered(**facts, pushed=False, detail="nothing was committed")
        detail = "the source names no secret to push with"
        if state.source is not None and state.source.secret is not None:
            variables = {
                "SOURCE_REPOSITORY": state.source.repository,
                "SOURCE_BRANCH": branch(state),
                "SOURCE_PASSWORD": self.lifecycle.network.variables(state)[state.source.secret],
            }
            code, said = await self._run(state, sandbox, "push", _PUSH, variables)
            if not code:
                return SourceDelivered(**facts, pushed=True)
            values = self.lifecycle.network.store.values(state.account_id)
            detail = (
                Mask(values)(printable(said))[-_DETAIL:].strip() or f"git push ended with exit code {code}"
            )
        bundle = await self._keep(state, sandbox)
        return SourceDelivered(**facts, pushed=False, bundle=bundle, detail=detail)

    async def _keep(self, state: SandboxState, sandbox: Sandbox) -> str | None:
        """Store the commits as a git bundle in the object store. Returns its key, or None when no bundle can be
        made.
        """
        code, _ = await self._run(state, sandbox, "bundle", _MAKE_BUNDLE, {})
        try:
            body = b"" if code else await sandbox.read_file(_BUNDLE, anywhere=True)
        except FileRefused:
            body = b""
        if not body:
            return None
        key = f"projects/{state.project_id}/outputs/{state.build_id}/source.bundle"
        await self.objects.put(key, body)
        return key

    async def _run(
        self, state: SandboxState, sandbox: Sandbox, name: str, command: str, variables: dict[str, str]
    ) -> tuple[int, str]:
        """Run a command once in this sandbox: a second run with the same `name` only returns the result.

        Returns its exit code and its output.
        """
        call_id = f"{state.build_id}/source/{name}"
        spec = CallSpec(call_id, ("bash", "-c", command), env=variables, timeout_s=_STEP_S)
        status = await sandbox.start_call(spec)
        while status.state == "running":
            status = await sandbox.wait_call(call_id, wait_s=20)
        out = await sandbox.read_output(call_id, "out", limit=100_000)
        err = await sandbox.read_output(call_id, "err", limit=100_000)
        return (1 if status.exit_code is None else status.exit_code), (out + err).decode("utf-8", "replace")
