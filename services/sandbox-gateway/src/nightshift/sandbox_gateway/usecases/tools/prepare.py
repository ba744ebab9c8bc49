"""Prepares a workspace: clones the source, runs the set-up commands, and lists the tools that the sandbox has."""

from dataclasses import replace

from nightshift.contracts.events.requests import Source
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState
from nightshift.sandbox_gateway.domain.text import cut
from nightshift.sandbox_gateway.usecases.tools.bash import output_of, run_once
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandboxes.port import CallSpec

#: The script of a repository that prepares its workspace. It runs once, after the clone and before the set-up commands.
SETUP_FILE = ".nightshift/setup.sh"
_STEP_S = 900.0
_SHOWN = 2_000

#: Makes the following git commands send the password in SOURCE_PASSWORD, if there is one. git receives it as a header,
#: so that no file contains its placeholder.
AS_THE_SOURCES_USER = """
if [ -n "$SOURCE_PASSWORD" ]; then
  basic=$(printf 'x-access-token:%s' "$SOURCE_PASSWORD" | base64 | tr -d '\\n')
  export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=http.extraHeader GIT_CONFIG_VALUE_0="Authorization: Basic $basic"
fi
"""
_CLONE = f"""
set -e
{AS_THE_SOURCES_USER}
git init -q .
git remote add origin "$SOURCE_REPOSITORY"
git fetch -q origin "$SOURCE_REF"
git checkout -q -B "$SOURCE_BRANCH" FETCH_HEAD
git update-ref refs/nightshift/base FETCH_HEAD
git update-ref refs/nightshift/work FETCH_HEAD
git log -1 --format='%H %s'
"""
_TOOLS = """
for tool in python3 pip node npm git go cargo ruby php java gcc make; do
  path=$(command -v $tool) || continue
  case $tool in go) flag=version ;; java) flag=-version ;; *) flag=--version ;; esac
  said=$(timeout 5 $tool $flag 2>&1 </dev/null | head -1)
  [ -n "$said" ] && echo "$tool: $said"
done
"""


async def prepare(ctx: Context, state: SandboxState, network: str) -> CallOutcome:
    """Prepare the workspace; each step runs only once. Returns a text that describes the workspace to the agent, with
    `network` in it.

    If the clone fails, the call fails. If a set-up command fails, the call succeeds and the text contains the command's
    output.
    """
    said: list[str] = []
    if state.source is not None:
        outcome, text = await _step(ctx, "clone", _CLONE, _clone_variables(ctx, state, state.source))
        if outcome:
            shown = cut(text, limit=_SHOWN).text
            return CallOutcome(
                f"{state.source.repository} could not be cloned:\n{shown}", "tool", exit_code=outcome
            )
        said.append(
            f"Your workspace holds {state.source.repository} at {state.source.ref}, commit {text.strip()},"
            f" on the branch {branch(state)}."
        )
    commands = [(f"setup-{number}", command) for number, command in enumerate(state.setup_commands)]
    if state.source is not None and (await _step(ctx, "setup-file", f"test -f {SETUP_FILE}", {}))[0] == 0:
        commands.insert(0, ("setup-of-source", f"bash {SETUP_FILE}"))
    for name, command in commands:
        code, text = await _step(ctx, name, command, {})
        said.append(f"The set-up command `{command}` ended with exit code {code}.")
        if code:
            said.append(f"Its output, and what came after it was not run:\n{cut(text, limit=_SHOWN).text}")
            break
    _, tools = await _step(ctx, "tools", _TOOLS, {})
    if state.environment:
        said.append(f"These variables are set for you: {', '.join(sorted(state.environment))}.")
    said += [network, f"The sandbox has these tools:\n{tools.strip()}"]
    return CallOutcome("\n".join(said))


def branch(state: SandboxState) -> str:
    """Return the name of the git branch on which the build works."""
    return f"nightshift/{state.build_id}"


def _clone_variables(ctx: Context, state: SandboxState, source: Source) -> dict[str, str]:
    return {
        "SOURCE_REPOSITORY": source.repository,
        "SOURCE_REF": source.ref,
        "SOURCE_BRANCH": branch(state),
        "SOURCE_PASSWORD": ctx.env.get(source.secret or "", ""),
    }


async def _step(ctx: Context, name: str, command: str, variables: dict[str, str]) -> tuple[int, str]:
    """Run a step in the sandbox once: a repeated call only returns the result again. Returns the step's exit code (124
    after a timeout) and its output.
    """
    step = replace(ctx, call_id=f"{ctx.call_id}/{name}")
    spec = CallSpec(
        step.call_id,
        ("bash", "-c", command),
        env={**ctx.env, **variables},
        timeout_s=min(_STEP_S, ctx.timeout_s),
    )
    status = await run_once(step, spec)
    code = 124 if status.timed_out else status.exit_code
    return (1 if code is None else code), await output_of(step, step.call_id, status)
