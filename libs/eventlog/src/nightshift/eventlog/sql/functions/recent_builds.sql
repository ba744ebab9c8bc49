-- The builds that were accepted last, newest first; with p_before only those accepted before it.
CREATE OR REPLACE FUNCTION nightshift.recent_builds(p_limit integer, p_before timestamptz)
RETURNS TABLE (stream_id text, accepted_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.stream_id, e.recorded_at FROM nightshift.events e
    WHERE e.type = 'build.accepted' AND (p_before IS NULL OR e.recorded_at < p_before)
    ORDER BY e.recorded_at DESC LIMIT p_limit
$$;
