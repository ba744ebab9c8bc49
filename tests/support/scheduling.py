"""The order in which pytest-xdist workers run the test modules: the longest first, at most two whole stacks at once.

Tests of whole stacks mostly wait and the others compute, so together they fill two cores. A third stack at once makes
tests miss their time limits.
"""

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

_STACKS_AT_ONCE = 2
_STACKS = "tests/e2e/"
#: Beginnings of node ids, the longest modules first.
_FIRST = (
    "tests/e2e/relay/test_kills.py",
    "tests/e2e/main_job/test_survival.py",
    "tests/e2e/main_job/test_faults.py",
    "tests/e2e/demo/",
    "tests/e2e/e2b/",
    "tests/e2e/",
    "tests/integration/bus/",
    "tests/integration/service/",
    "tests/integration/sandboxes/",
    "tests/integration/relay/",
    "tests/integration/",
    "tests/memory/",
    "tests/unit/",
)


def place_of(nodeid: str) -> int:
    """Returns the place of a test's module in the order of the whole run."""
    return next((place for place, begin in enumerate(_FIRST) if nodeid.startswith(begin)), len(_FIRST))


class LongestFirst(LoadScopeScheduling):
    """Assigns modules in the order of the collection, but no whole stack while two workers run one."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._next(node), last=False)
        super()._assign_work_unit(node)

    def _next(self, node: WorkerController) -> str:
        busy = sum(self._has_stack(other) for other in self.nodes if other is not node)
        fits = (scope for scope in self.workqueue if busy < _STACKS_AT_ONCE or not scope.startswith(_STACKS))
        return next(fits, next(iter(self.workqueue)))

    def _has_stack(self, node: WorkerController) -> bool:
        work = self.assigned_work[node].items()
        return any(scope.startswith(_STACKS) and not all(unit.values()) for scope, unit in work)
