"""Plans a demo: its model, its sandbox, and the money per day."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nightshift.contracts.models import DEFAULT_MODEL, SCRIPTED_MODEL

#: The idea and the scenario of the demo. `examples/` of a checkout links to them.
_TOOL_LIBRARY = Path(__file__).parent / "tool_library"
#: Seconds of an account's day with the scripted model: enough for half of the build, and a short night.
_DAY_SECONDS = 25
#: The money of such a day in microdollars: less than the script costs, so that the build sleeps once.
_SCRIPTED_DAY = 1_200_000
#: The money of a day with Claude in microdollars. Days are calendar days then, so a demo never spends more in a night.
_CLAUDE_DAY = 5_000_000


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """The settings of a demo. The account may spend `day_microusd` per day, and a day lasts `day_seconds`."""

    scripted: bool
    e2b: bool
    model: str
    day_microusd: int
    day_seconds: float
    idea: Path
    scenario: Path | None

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables that give the services of the demo these settings."""
        day = {
            "NIGHTSHIFT_BUDGET_DAY_SECONDS": f"{self.day_seconds:g}",
            "NIGHTSHIFT_BUDGET_WAKE_JITTER_S": "0",
        }
        return day if self.scripted else {}

    def banner(self) -> list[str]:
        """Returns the first lines of the output: which model, which sandbox, how much money."""
        model, money = f"Claude ({self.model})", f"${self.day_microusd / 1_000_000:.2f} a day"
        if self.scripted:
            model = "a scripted model behind the Anthropic SDK (no ANTHROPIC_API_KEY is set)"
            money += f"; a day lasts {self.day_seconds:g} s here, so that you can watch it sleep"
        sandbox = "E2B" if self.e2b else "a local one in bubblewrap (no E2B_API_KEY is set)"
        return [f"model    {model}", f"sandbox  {sandbox}", f"money    {money}"]


def plan_demo(
    environ: Mapping[str, str], *, idea: Path | None, scenario: Path | None, model: str | None
) -> DemoPlan:
    """Returns the plan for these environment variables and options. Without ANTHROPIC_API_KEY the model is a scripted
    one.
    """
    scripted = scenario is not None or not environ.get("ANTHROPIC_API_KEY")
    return DemoPlan(
        scripted=scripted,
        e2b=bool(environ.get("E2B_API_KEY")),
        model=model or (SCRIPTED_MODEL if scripted else DEFAULT_MODEL),
        day_microusd=_SCRIPTED_DAY if scripted else _CLAUDE_DAY,
        day_seconds=float(environ.get("NIGHTSHIFT_BUDGET_DAY_SECONDS") or _DAY_SECONDS),
        idea=idea or _TOOL_LIBRARY / "idea.yaml",
        scenario=(scenario or _TOOL_LIBRARY / "scenario.yaml") if scripted else None,
    )
