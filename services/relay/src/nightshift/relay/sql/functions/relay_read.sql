-- The next rows of these shards after their positions, in commit order within a shard. About p_max_events in all,
-- shared fairly by the shards that have any; cut where their data would exceed p_max_bytes, but never less than one row.
-- When nothing is new it costs one index probe a shard.
--
-- A generic plan is forced: for array arguments PostgreSQL would otherwise plan each call, half of the time of a read.
CREATE OR REPLACE FUNCTION nightshift.relay_read(
    p_shards smallint[], p_after bigint[], p_max_events integer, p_max_bytes bigint
) RETURNS TABLE (
    shard smallint, "position" bigint, stream_id text, version bigint, event_id uuid, type text, schema_version integer,
    data text, correlation_id text, causation_id uuid, actor text, traceparent text, recorded_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_shards smallint[];
    v_after bigint[];
    v_each integer;
BEGIN
    IF cardinality(p_shards) = 1 THEN -- a shard of a notification: it has new rows, and needs no fair share
        v_shards := p_shards;
        v_after := p_after;
    ELSE
        SELECT array_agg(c.shard), array_agg(c.after) INTO v_shards, v_after
        FROM unnest(p_shards, p_after) AS c (shard, after)
        WHERE EXISTS (SELECT FROM nightshift.events r WHERE r.shard = c.shard AND r.position > c.after);
    END IF;
    IF v_shards IS NULL THEN
        RETURN;
    END IF;
    v_each := greatest(1, p_max_events / cardinality(v_shards));
    RETURN QUERY
    SELECT x.shard, x.position, x.stream_id, x.version, x.event_id, x.type, x.schema_version, x.data,
        x.correlation_id, x.causation_id, x.actor, x.traceparent, x.recorded_at
    FROM (
        -- By rank, so that a cut takes from the end of every shard and never from its middle.
        SELECT e.*, sum(octet_length(e.data)) OVER (ORDER BY e.rank, e.shard) - octet_length(e.data) AS bytes_before
        FROM unnest(v_shards, v_after) AS c (shard, after)
        CROSS JOIN LATERAL (
            SELECT r.*, row_number() OVER (ORDER BY r.shard, r.position) AS rank FROM nightshift.events r
            WHERE r.shard = c.shard AND r.position > c.after
            ORDER BY r.shard, r.position LIMIT v_each
        ) AS e
    ) AS x
    WHERE x.bytes_before < p_max_bytes
    ORDER BY x.shard, x.position;
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_read TO nightshift_relay;
