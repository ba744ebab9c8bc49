-- Adds the whole stream of a build that another installation exported, as history: with its own versions, ids and times.
--
-- Its positions are below zero. So the relay, which reads from zero on, never publishes it, and no pending row is opened:
-- no service works on it. The stream is closed. Only the owner of the schema may call this.
--
-- Returns the number of events. Raises NS002 (id reused) when the stream, or an event with one of its ids, is in the log.
CREATE OR REPLACE FUNCTION nightshift.import_stream(
    p_stream_id text,
    p_event_ids uuid[],
    p_types text[],
    p_schema_versions integer[],
    p_data text[],
    p_correlation_ids text[],
    p_causation_ids uuid[],
    p_actors text[],
    p_traceparents text[],
    p_recorded_at timestamptz[]
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_shard smallint := nightshift.shard_of(p_stream_id);
    v_count bigint := cardinality(p_event_ids);
    v_before bigint;
    v_end bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(20041, v_shard);
    SELECT least(coalesce(min(position), 0), 0) INTO v_before FROM nightshift.events WHERE shard = v_shard;
    SELECT min(n.version) INTO v_end
    FROM unnest(p_types) WITH ORDINALITY AS n (type, version)
    JOIN nightshift.event_types t ON t.type = n.type AND t.terminal;

    INSERT INTO nightshift.streams (stream_id, shard, opened_at, closed_at)
    VALUES (p_stream_id, v_shard, p_recorded_at[1], greatest(p_recorded_at[v_count], p_recorded_at[1]));
    INSERT INTO nightshift.events (
        shard, position, stream_id, version, event_id, type, schema_version, data,
        correlation_id, causation_id, actor, traceparent, closed, recorded_at
    ) OVERRIDING SYSTEM VALUE
    SELECT v_shard, v_before - v_count + n.version - 1, p_stream_id, n.version, n.event_id, n.type, n.schema_version,
        n.data, n.correlation_id, n.causation_id, n.actor, n.traceparent,
        n.version >= coalesce(v_end, v_count) OR n.version = v_count, n.recorded_at
    FROM unnest(
        p_event_ids, p_types, p_schema_versions, p_data, p_correlation_ids, p_causation_ids, p_actors, p_traceparents,
        p_recorded_at
    ) WITH ORDINALITY AS n (
        event_id, type, schema_version, data, correlation_id, causation_id, actor, traceparent, recorded_at, version
    );
    RETURN v_count;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'stream %: the log has it, or an event of it, already', p_stream_id USING ERRCODE = 'NS002';
END
$$;
