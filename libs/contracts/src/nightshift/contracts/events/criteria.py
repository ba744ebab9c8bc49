"""The orchestrator's fact about one round of judging, with a verdict for each criterion of the request."""

from typing import Annotated

from pydantic import Field

from nightshift.contracts.events.build_steps import BuildFact, Usage
from nightshift.contracts.events.proof import CriterionVerdict
from nightshift.contracts.model import Microdollars


class CriteriaJudged(BuildFact, type="criteria.judged"):
    """The judge inspected the finished work and gave its verdicts. `round` counts the build's rounds of judging from 1.

    `usage` and `cost_microusd` sum up the judge's model calls of this round. Each call also has events of its own.
    """

    round: Annotated[int, Field(ge=1)]
    verdicts: tuple[CriterionVerdict, ...]
    usage: Usage
    cost_microusd: Microdollars
