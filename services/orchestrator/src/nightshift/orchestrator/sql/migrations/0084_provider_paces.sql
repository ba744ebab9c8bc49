-- How far apart the model calls of all replicas with one key start while the provider has too many of them. One row per key.
CREATE TABLE nightshift.provider_paces (
    key_id text PRIMARY KEY,
    interval_s double precision NOT NULL DEFAULT 0, -- 0: calls are not spaced
    paused_until timestamptz NOT NULL,
    slowed_at timestamptz, -- when the interval was last doubled
    next_at timestamptz NOT NULL
);

GRANT SELECT ON nightshift.provider_paces TO nightshift_orchestrator, nightshift_reader;
