"""Makes the events for the operator about a refused key.

All builds and replicas derive the same id for one incident.
"""

from datetime import UTC

from nightshift.contracts import ids
from nightshift.contracts.events.build import ProviderBlocked, ProviderRecovered
from nightshift.orchestrator.domain.commands import ReportProvider
from nightshift.orchestrator.ports import RefusedKey


def blocked(key_id: str, refused: RefusedKey) -> ReportProvider:
    """Return the report that the provider refuses the key."""
    fact = ProviderBlocked.model_validate(
        {
            "key_id": key_id,
            "model": refused.model,
            "kind": refused.kind,
            "status": refused.status,
            "detail": refused.detail,
            "since": refused.since,
        }
    )
    return ReportProvider(fact, ids.request_cause(fact.type, _incident(key_id, refused)))


def recovered(key_id: str, refused: RefusedKey) -> ReportProvider:
    """Return the report that the provider accepts the key again."""
    fact = ProviderRecovered(key_id=key_id, model=refused.model, since=refused.since)
    return ReportProvider(fact, ids.request_cause(fact.type, _incident(key_id, refused)))


def _incident(key_id: str, refused: RefusedKey) -> str:
    return f"{key_id}/{refused.model or ''}/{refused.since.astimezone(UTC).isoformat()}"
