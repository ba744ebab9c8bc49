"""The orchestrator's fact about a round of judging: one verdict for each criterion of the request."""

from typing import Annotated

from pydantic import Field

from nightshift.contracts.events.build_steps import BuildFact, Usage
from nightshift.contracts.events.proof import CriterionVerdict
from nightshift.contracts.model import Microdollars


class CriteriaJudged(BuildFact, type="criteria.judged"):
    """The judge looked at the finished work and gave its verdicts. `round` counts the rounds of the build, from 1.

    `usage` and `cost_microusd` sum up the judge's model calls of this round. Their own events hold them too.
    """

    round: Annotated[int, Field(ge=1)]
    verdicts: tuple[CriterionVerdict, ...]
    usage: Usage
    cost_microusd: Microdollars
