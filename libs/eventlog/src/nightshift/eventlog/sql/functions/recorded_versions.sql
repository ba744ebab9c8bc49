-- For append_events: returns the versions under which all of these events are recorded, in their order.
-- Compares stream, type and data, not the writer or the time. NS002 when one is missing or has other content.
CREATE OR REPLACE FUNCTION nightshift.recorded_versions(
    p_stream_id text, p_event_ids uuid[], p_types text[], p_schema_versions integer[], p_data text[]
) RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_known bigint;
    v_same bigint;
    v_versions bigint[];
BEGIN
    SELECT
        count(e.event_id),
        count(*) FILTER (
            WHERE e.stream_id = p_stream_id AND e.type = n.type
                AND e.schema_version = n.schema_version AND e.data = n.data
        ),
        array_agg(e.version ORDER BY n.place)
    INTO v_known, v_same, v_versions
    FROM unnest(p_event_ids, p_types, p_schema_versions, p_data) WITH ORDINALITY
        AS n (event_id, type, schema_version, data, place)
    LEFT JOIN nightshift.events e ON e.event_id = n.event_id;

    IF v_same <> cardinality(p_event_ids) THEN
        RAISE EXCEPTION 'stream %: of % events % are in the log already, and % of them say the same',
            p_stream_id, cardinality(p_event_ids), v_known, v_same
            USING ERRCODE = 'NS002';
    END IF;
    RETURN v_versions;
END
$$;
