-- Which keys the model provider refuses. One row per key, named by a hash of it. While `refused_at` is set the builds of the
-- key wait, and one of them at a time may try again (`probing`) from `next_probe_at` on.
CREATE TABLE nightshift.provider_keys (
    key_id text PRIMARY KEY,
    kind text NOT NULL, -- auth, credit, usage_limit
    status integer,
    detail text NOT NULL,
    refused_at timestamptz, -- null: the provider accepts the key
    refusals integer NOT NULL DEFAULT 0, -- of probes in a row
    probing boolean NOT NULL DEFAULT false,
    next_probe_at timestamptz NOT NULL,
    incidents integer NOT NULL DEFAULT 0,
    CONSTRAINT provider_keys_probe_while_refused CHECK (refused_at IS NOT NULL OR NOT probing)
);

GRANT SELECT ON nightshift.provider_keys TO nightshift_orchestrator, nightshift_reader;
