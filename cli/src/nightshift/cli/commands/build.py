"""`nightshift build`: requests a build, like any producer outside of Nightshift."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import cyclopts
import yaml
from cyclopts import Parameter

from nightshift.cli import attachments
from nightshift.cli.amounts import microdollars
from nightshift.cli.commands.watch import follow_to_the_end
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import note, write_json, write_line
from nightshift.cli.producer import checked, send
from nightshift.contracts.events.proof import ProofMode
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.errors import NotFound, Refused
from nightshift.orchestrator.usecases.admission import check_request

app = cyclopts.App(name="build")

#: The largest request file in bytes. A larger one is refused before it is read.
_MAX_FILE = 1_000_000


@app.default
async def build(
    file: Path | None = None,
    *,
    idea: str | None = None,
    account: str | None = None,
    project: str | None = None,
    build_id: str | None = None,
    model: str | None = None,
    proof: ProofMode | None = None,
    cost_limit: str | None = None,
    attach: Annotated[tuple[Path, ...], Parameter(negative=())] = (),
    criterion: Annotated[tuple[str, ...], cyclopts.Parameter(negative=())] = (),
    watch: bool = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> int | None:
    """Request a build and print its id. The build runs without you.

    For example:

        nightshift build examples/ideas/tool-library.yaml --watch

        nightshift build --idea "A page that counts down to our holidays" --account family

        nightshift build --idea "Build what the sketch shows" --attach sketch.png --attach prices.csv

    Args:
        file: A YAML or JSON file with the fields of the request, such as idea_brief, understanding_qna, checks.
        idea: The idea itself, instead of a file.
        account: The account that pays. Default, that of the file, else `default`.
        project: The project of the build, which numbers its versions. Default, that of the file, else the build's id.
        build_id: An id of your own. The same id with the same content changes nothing.
        model: The model that the agent uses. Default, the orchestrator's setting.
        proof: What must show that the build works. `tests` means executed tests, `preview` an answer of the preview,
            `checks` passed checks. Default, that of the file, else any of them.
        cost_limit: The most that all model calls of the build may cost, in US dollars. It stops before a call that may
            pass it, and asks you. Default, that of the file, else that of the account's policy, else none.
        attach: A file that the agent gets with the idea: text, JPEG, PNG, GIF, WebP or PDF. Repeat it for more files.
        criterion: What must be true at the end; give it once for each criterion. A judge that did not build it says
            whether it is. Default, those of the file.
        watch: Follow the build to its end; the exit code is the build's.
    """
    fields = _fields(file, idea)
    name = build_id or fields.get("build_id") or f"build-{uuid4().hex[:12]}"
    given: dict[str, Any] = {"account_id": account, "project_id": project, "model": model, "proof": proof}
    given["cost_limit_microusd"] = None if cost_limit is None else microdollars(cost_limit)
    fields |= {"criteria": list(criterion)} if criterion else {}
    fields |= {key: value for key, value in given.items() if value is not None}
    fields = {"account_id": "default", "project_id": name, **fields, "build_id": name}
    attached = attachments.read(attach)
    if attached:
        named = [one.model_dump() for one, _ in attached]
        fields["attachments"] = [*fields.get("attachments", ()), *named]
    request = checked(BuildRequested, fields)
    # Checked here too, because a request that the orchestrator refuses becomes a dead letter, which nobody sees at
    # once.
    check_request(request, datetime.now(UTC))
    if attached:
        await attachments.store(home, attached)
    if request.proof == "none":
        note("the request demands no proof: the build can be ready although nothing shows that it works")
    await send(home, request)
    if watch:
        note(f"build {name}")
        return await follow_to_the_end(home, name, as_json=json, sent=request)
    if json:
        write_json({"build_id": name, "project_id": request.project_id, "account_id": request.account_id})
    else:
        write_line(name)
        note(f"sent; follow it with `nightshift watch {name}`")
    return None


def _fields(file: Path | None, idea: str | None) -> dict[str, Any]:
    if (file is None) == (idea is None):
        raise WrongUsage("give either a file or --idea", hint="`nightshift build --help` shows both")
    return {"idea_brief": idea} if file is None else read_request(file)


def read_request(file: Path) -> dict[str, Any]:
    """Returns the fields of a request file. Raises NotFound and Refused."""
    try:
        if file.stat().st_size > _MAX_FILE:
            hint = "`idea_brief` holds at most 100,000 characters"
            raise Refused(f"{file} is larger than {_MAX_FILE:,} bytes", hint=hint)
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refused(f"{file} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        hint = "its top level must be a mapping: idea_brief, understanding_qna, …"
        raise Refused(f"{file} is not a request", hint=hint)
    return {str(key): value for key, value in fields.items()}
