-- Appends to one stream, whole or not at all, in one round trip. The arrays run in step, one element an event; an array of
-- correlation ids, actors or traceparents may hold one element for all. The `pending_` arrays hold the net changes of the
-- pending projection, `pending_event` being the place in the batch of the event that opens (1, 2…), null for a close.
--
-- Returns the stream's version after the append; the events have the versions up to it. When the log has all ids with the
-- same content, it returns what was recorded, with each event's version, and ignores p_expected_version: the answer to the
-- first attempt was lost.
--
-- NS001 the stream is not at expected_version (null: any; 0: it must not exist)
-- NS002 an id is in the log with other content, or only some of the ids are: the batch is not the one appended before
-- 23505 the same, where the first id is not among those
-- NS003 the session's role does not own one of the types
-- NS004 the stream was closed by an end, and a type is not one that may follow
CREATE OR REPLACE FUNCTION nightshift.append_events(
    p_stream_id text,
    p_expected_version bigint,
    p_event_ids uuid[],
    p_types text[],
    p_schema_versions integer[],
    p_data text[],
    p_correlation_ids text[],
    p_causation_ids uuid[],
    p_actors text[],
    p_traceparents text[],
    p_pending_kinds text[],
    p_pending_keys text[],
    p_pending_event integer[],
    p_pending_due_at timestamptz[],
    p_pending_through bigint[],
    OUT shard smallint,
    OUT head bigint,
    OUT versions bigint[],
    OUT fresh boolean
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_count constant integer := cardinality(p_event_ids);
    v_correlation_ids constant integer := cardinality(p_correlation_ids);
    v_actors constant integer := cardinality(p_actors);
    v_traceparents constant integer := cardinality(p_traceparents);
    v_shard constant smallint := nightshift.shard_of(p_stream_id);
    v_head bigint := 0;
    v_closed boolean := false;
    v_owned text[];
    v_ends boolean;
    v_after_close boolean;
    v_now timestamptz;
BEGIN
    -- First, so that every earlier position of this shard is committed before a position is drawn. 20041 is the class of the
    -- shard locks. An expression, because PERFORM would plan a query.
    IF pg_advisory_xact_lock(20041, v_shard) IS NULL THEN
        RETURN;
    END IF;
    v_now := clock_timestamp();
    shard := v_shard;

    SELECT array_agg(t.type), bool_or(t.terminal), bool_and(t.after_close) INTO v_owned, v_ends, v_after_close
    FROM nightshift.event_types t WHERE t.type = ANY (p_types) AND pg_has_role(session_user, t.role, 'USAGE');
    IF (p_types <@ v_owned) IS NOT TRUE THEN
        RAISE EXCEPTION '% does not own every type of %', session_user, p_types USING ERRCODE = 'NS003';
    END IF;

    -- A batch that was appended before is recognized by its first id. A batch that repeats only a later id fails on the unique
    -- index (23505), as does one whose id another shard commits now. A probe for each id would cost an eighth of a batch.
    IF EXISTS (SELECT FROM nightshift.events e WHERE e.event_id = p_event_ids[1]) THEN
        versions := nightshift.recorded_versions(p_stream_id, p_event_ids, p_types, p_schema_versions, p_data);
        head := (SELECT max(v) FROM unnest(versions) AS v);
        fresh := false;
        RETURN;
    END IF;

    SELECT e.version, e.closed INTO v_head, v_closed
    FROM nightshift.events e WHERE e.stream_id = p_stream_id ORDER BY e.version DESC LIMIT 1;
    IF NOT FOUND THEN
        v_head := 0;
        v_closed := false;
    END IF;
    IF (v_closed AND NOT v_after_close) OR p_expected_version <> v_head THEN
        IF EXISTS (SELECT FROM nightshift.events e WHERE e.event_id = ANY (p_event_ids)) THEN
            PERFORM nightshift.recorded_versions(p_stream_id, p_event_ids, p_types, p_schema_versions, p_data); -- NS002
        ELSIF v_closed AND NOT v_after_close THEN
            RAISE EXCEPTION 'stream % is closed', p_stream_id USING ERRCODE = 'NS004';
        END IF;
        RAISE EXCEPTION 'stream % is at version %, not at %', p_stream_id, v_head, p_expected_version
            USING ERRCODE = 'NS001';
    END IF;

    INSERT INTO nightshift.events (
        shard, stream_id, version, event_id, type, schema_version, data,
        correlation_id, causation_id, actor, traceparent, closed, recorded_at
    )
    SELECT v_shard, p_stream_id, v_head + place, p_event_ids[place], p_types[place], p_schema_versions[place],
        p_data[place], p_correlation_ids[least(place, v_correlation_ids)], p_causation_ids[place],
        p_actors[least(place, v_actors)], p_traceparents[least(place, v_traceparents)], v_closed OR v_ends, v_now
    FROM generate_series(1, v_count) AS n (place);

    IF v_ends THEN
        IF nightshift.follows_end(p_types) THEN
            RAISE EXCEPTION 'stream %: % goes on after its end', p_stream_id, p_types USING ERRCODE = 'NS004';
        END IF;
        UPDATE nightshift.streams s SET closed_at = v_now WHERE s.stream_id = p_stream_id AND s.closed_at IS NULL;
    END IF;
    IF v_head = 0 THEN
        INSERT INTO nightshift.streams (stream_id, shard, opened_at, closed_at)
        VALUES (p_stream_id, v_shard, v_now, CASE WHEN v_ends THEN v_now END);
    END IF;
    IF cardinality(p_pending_kinds) > 0 THEN
        PERFORM nightshift.change_pending(
            p_stream_id, v_head, v_now, p_pending_kinds, p_pending_keys, p_pending_event, p_pending_due_at, p_pending_through
        );
    END IF;
    fresh := true;
    head := v_head + v_count;
END
$$;
