"""Which worker runs which module when: what takes long first, and not more whole stacks at once than two cores bear.

Tests of whole stacks wait much, the others compute: side by side they fill the machine, and neither is so late that it
meets its limits of time by chance.
"""

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

_STACKS_AT_ONCE = 2
_STACKS = "tests/e2e/"
#: Modules that take long, the longest first; then the others of their folder, and so on.
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


def turn(nodeid: str) -> int:
    """The place of a test in the order of the whole run. It only parts modules: inside one any order may hold."""
    return next((place for place, begin in enumerate(_FIRST) if nodeid.startswith(begin)), len(_FIRST))


class Turns(LoadScopeScheduling):
    """Hands out modules in the order of the collection, but no stack while enough workers have one."""

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
