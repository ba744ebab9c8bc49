"""What shows that a build works: the checks that ran, the tests they executed, and the answer of the preview."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from nightshift.contracts.model import SEALED, Count

#: What a request can demand before its build is ready: executed tests, an answer of the preview, or passed checks.
#: `none` demands nothing.
ProofMode = Literal["tests", "preview", "checks", "none"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class CheckProof(_Part):
    """A command that the orchestrator ran in the workspace. `exit_code` is null when it is unknown."""

    name: Annotated[str, Field(max_length=128), SEALED]
    command: Annotated[str, Field(max_length=8192), SEALED]
    passed: bool
    exit_code: int | None = None


class PreviewProof(_Part):
    """The preview answered over HTTP with `status` at `path`. `url` includes the path."""

    url: Annotated[str, Field(max_length=6200), SEALED]
    path: Annotated[str, Field(max_length=4096), SEALED]
    status: Annotated[int, Field(ge=100, le=599)]


class CriterionVerdict(_Part):
    """The judge's verdict on one criterion. `index` is the place of the criterion in the request, from 0.

    `accepted` is true when a person accepted the build although the criterion is not met.
    """

    index: Count
    met: bool
    evidence: Annotated[str, Field(max_length=4000), SEALED]
    accepted: bool | None = None


class Proof(_Part):
    """What shows that a build works.

    `mode` is the kind of proof that the request demanded. It is null when any executed test, preview or check was
    enough. `criteria` has the verdicts of the last round of judging, and is null for a request without criteria.
    """

    mode: ProofMode | None = None
    checks: tuple[CheckProof, ...] = ()
    tests_executed: Count = 0
    preview: PreviewProof | None = None
    criteria: tuple[CriterionVerdict, ...] | None = None
