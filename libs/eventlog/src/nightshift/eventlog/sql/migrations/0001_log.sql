-- The event log.
--
-- Every fact of Nightshift is one row of `events`. A build is one stream (`build-<id>`), an account's money is one
-- stream (`account-<id>`); a row is known by its stream and its version there, 1, 2, 3… without a gap, and by its
-- event id, which its writer derived from the cause. Nobody writes the tables: a service may execute the functions
-- of `functions/`, which belong to nightshift_owner, and may append only the types that `event_types` gives to its
-- role. Rows of `events` are never changed and never removed.
--
-- Order. A stream belongs to one of 64 shards for ever (shard_of). An append locks the shard first and only then
-- draws positions, and the lock ends with the transaction. So within a shard the order of positions is the order of
-- commits, and a reader of `shard = s and position > cursor` misses nothing. Between shards positions say nothing.
--
-- What an append must know of its stream stands in the stream's last row: how far it is (version), and whether an end has
-- closed it (closed). So the usual append reads one row and writes one. `streams` is the list of streams, written when
-- one begins and when it ends.
-- `pending` holds what waits for somebody: opened and closed by the events themselves, in the append's transaction,
-- so that "which calls have no result?" is one indexed read and can never disagree with the log.
-- `leases` says who works on what. Each taking draws a higher fence, so that a late writer can be told from the owner.

CREATE TABLE nightshift.events (
    shard smallint NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY,
    stream_id text NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    schema_version integer NOT NULL,
    data text NOT NULL, -- canonical JSON as text: jsonb refuses NUL and lone surrogates, and changes the order of keys
    sealed bytea, -- the free text of the event under its project's key
    key_id text,
    correlation_id text NOT NULL,
    causation_id uuid NOT NULL,
    actor text NOT NULL,
    traceparent text,
    closed boolean NOT NULL, -- the stream is closed by the append of this event, or since an earlier one
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream_id, version),
    CONSTRAINT events_event_id_once UNIQUE (event_id),
    CONSTRAINT events_shard_known CHECK (shard BETWEEN 0 AND 63),
    CONSTRAINT events_version_counts CHECK (version > 0 AND schema_version > 0),
    CONSTRAINT events_sealed_with_key CHECK ((sealed IS NULL) = (key_id IS NULL))
);

CREATE UNIQUE INDEX events_in_commit_order ON nightshift.events (shard, position);

CREATE TABLE nightshift.streams (
    stream_id text PRIMARY KEY,
    shard smallint NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    CONSTRAINT streams_named CHECK (stream_id ~ '^(build|account)-[A-Za-z0-9][A-Za-z0-9._-]*$' AND length(stream_id) <= 136),
    CONSTRAINT streams_shard_known CHECK (shard BETWEEN 0 AND 63),
    CONSTRAINT streams_close_after_open CHECK (closed_at >= opened_at)
);

CREATE INDEX streams_open ON nightshift.streams (stream_id) WHERE closed_at IS NULL;

CREATE TABLE nightshift.event_types (
    type text PRIMARY KEY,
    role name NOT NULL,
    terminal boolean NOT NULL,
    after_close boolean NOT NULL,
    CONSTRAINT event_types_end_is_last CHECK (NOT (terminal AND after_close))
);

CREATE TABLE nightshift.pending (
    kind text NOT NULL,
    key text NOT NULL,
    stream_id text NOT NULL,
    version bigint NOT NULL,
    opened_at timestamptz NOT NULL,
    due_at timestamptz,
    PRIMARY KEY (kind, key, stream_id),
    CONSTRAINT pending_opened_by_an_event CHECK (version > 0)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0); -- rows come and go all the time

CREATE INDEX pending_by_due ON nightshift.pending (kind, due_at, key) WHERE due_at IS NOT NULL;
CREATE INDEX pending_of_stream ON nightshift.pending (stream_id);

CREATE TABLE nightshift.leases (
    name text PRIMARY KEY,
    owner text, -- null: free
    fence bigint NOT NULL,
    expires_at timestamptz,
    CONSTRAINT leases_owned_until CHECK ((owner IS NULL) = (expires_at IS NULL)),
    CONSTRAINT leases_fence_counts CHECK (fence > 0)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX leases_by_expiry ON nightshift.leases (expires_at) WHERE expires_at IS NOT NULL;

CREATE FUNCTION nightshift.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON nightshift.events
    FOR EACH STATEMENT EXECUTE FUNCTION nightshift.refuse_change();
-- Also for a session that plays a replica.
ALTER TABLE nightshift.events ENABLE ALWAYS TRIGGER events_append_only;
