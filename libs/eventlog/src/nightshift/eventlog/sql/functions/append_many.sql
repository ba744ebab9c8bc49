-- Appends to several streams in one transaction: all of it or none. Every shard is locked before the first event is
-- written, lowest first, so that two callers cannot wait for each other. The arrays are those of append_events, the
-- streams' parts one after the other; p_event_counts and p_pending_counts say how many belong to each.
CREATE OR REPLACE FUNCTION nightshift.append_many(
    p_stream_ids text[],
    p_expected_versions bigint[],
    p_event_counts integer[],
    p_pending_counts integer[],
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
    p_pending_through bigint[]
) RETURNS TABLE (shard smallint, head bigint, versions bigint[], fresh boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    e integer := 1; -- where the stream's events begin
    p integer := 1; -- where its pending changes begin
    v_last_e integer;
    v_last_p integer;
    v_shard smallint;
BEGIN
    FOR v_shard IN SELECT DISTINCT nightshift.shard_of(s) AS n FROM unnest(p_stream_ids) AS s ORDER BY n LOOP
        PERFORM pg_advisory_xact_lock(20041, v_shard);
    END LOOP;

    FOR i IN 1 .. cardinality(p_stream_ids) LOOP
        v_last_e := e + p_event_counts[i] - 1;
        v_last_p := p + p_pending_counts[i] - 1;
        RETURN QUERY SELECT a.shard, a.head, a.versions, a.fresh FROM nightshift.append_events(
            p_stream_ids[i], p_expected_versions[i],
            p_event_ids[e:v_last_e], p_types[e:v_last_e], p_schema_versions[e:v_last_e], p_data[e:v_last_e],
            p_correlation_ids[e:v_last_e], p_causation_ids[e:v_last_e], p_actors[e:v_last_e], p_traceparents[e:v_last_e],
            p_pending_kinds[p:v_last_p], p_pending_keys[p:v_last_p], p_pending_event[p:v_last_p],
            p_pending_due_at[p:v_last_p], p_pending_through[p:v_last_p]
        ) AS a;
        e := v_last_e + 1;
        p := v_last_p + 1;
    END LOOP;
END
$$;
