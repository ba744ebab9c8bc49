-- Returns where the log has these events. An event that it does not have is missing in the result.
CREATE OR REPLACE FUNCTION nightshift.relay_known(p_event_ids uuid[])
RETURNS TABLE (event_id uuid, stream_id text, version bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY SELECT e.event_id, e.stream_id, e.version
    FROM nightshift.events e WHERE e.event_id = ANY (p_event_ids);
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_known TO nightshift_relay;
