-- append_events for the most frequent case, one event that changes no pending row: the same guarantees in one statement.
-- Where its conditions do not hold (a stream's first event or its end, a conflict, a foreign type, a known id) it writes
-- nothing and calls append_events.
--
-- The caller passes the shard of the stream (shard_of), which it can cache; computing it here would cost a SHA-256 each time.
-- A shard that differs from that of the stream's last row is not used: append_events decides then.
--
-- Returns the event's version, negative where the event was in the log before. Returns a number and not a row, because a
-- function in FROM costs a sixth of the append.
CREATE OR REPLACE FUNCTION nightshift.append_one(
    p_stream_id text,
    p_shard smallint,
    p_expected_version bigint,
    p_event_id uuid,
    p_type text,
    p_schema_version integer,
    p_data text,
    p_correlation_id text,
    p_causation_id uuid,
    p_actor text,
    p_traceparent text
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_version bigint;
BEGIN
    -- As in append_events, before a position is drawn.
    IF pg_advisory_xact_lock(20041, p_shard) IS NULL THEN
        RETURN NULL;
    END IF;

    INSERT INTO nightshift.events AS w (
        shard, stream_id, version, event_id, type, schema_version, data,
        correlation_id, causation_id, actor, traceparent, closed, recorded_at
    )
    SELECT p_shard, p_stream_id, last.version + 1, p_event_id, p_type, p_schema_version, p_data,
        p_correlation_id, p_causation_id, p_actor, p_traceparent, last.closed, clock_timestamp()
    FROM (
        SELECT e.shard, e.version, e.closed FROM nightshift.events e
        -- Not below what is expected: to find one row, a scan first takes all that match on its page.
        WHERE e.stream_id = p_stream_id AND e.version >= coalesce(p_expected_version, 0) ORDER BY e.version DESC LIMIT 1
    ) AS last, nightshift.event_types t
    WHERE last.shard = p_shard AND t.type = p_type AND NOT t.terminal AND pg_has_role(session_user, t.role, 'USAGE')
        AND (p_expected_version IS NULL OR p_expected_version = last.version)
        AND (NOT last.closed OR t.after_close)
    ON CONFLICT (event_id) DO NOTHING
    RETURNING w.version INTO v_version;

    IF v_version IS NULL THEN
        SELECT CASE WHEN a.fresh THEN a.head ELSE -a.head END INTO v_version
        FROM nightshift.append_events(
            p_stream_id, p_expected_version, ARRAY[p_event_id], ARRAY[p_type], ARRAY[p_schema_version], ARRAY[p_data],
            ARRAY[p_correlation_id], ARRAY[p_causation_id], ARRAY[p_actor], ARRAY[p_traceparent],
            '{}', '{}', '{}', '{}', '{}'
        ) AS a;
    END IF;
    RETURN v_version;
END
$$;
