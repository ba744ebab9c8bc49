-- Builds that somebody should be running and nobody is: accepted, not ended, not asleep, without a live lease, and
-- not waiting for a person or a provider unless that wait is due. The longest waiting first.
CREATE OR REPLACE FUNCTION nightshift.unowned_builds(p_limit integer)
RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.key
    FROM nightshift.pending p
    WHERE p.kind = 'build'
        AND NOT EXISTS (
            SELECT FROM nightshift.pending s WHERE s.kind = 'sleeper' AND s.key = p.key AND s.stream_id = p.stream_id
        )
        AND NOT EXISTS (
            SELECT FROM nightshift.pending w
            WHERE w.kind = 'waiting' AND w.key = p.key AND w.stream_id = p.stream_id
                AND (w.due_at IS NULL OR w.due_at > clock_timestamp())
        )
        AND NOT EXISTS (
            SELECT FROM nightshift.leases l
            WHERE l.name = 'build/' || p.key AND l.owner IS NOT NULL AND l.expires_at > clock_timestamp()
        )
    ORDER BY p.opened_at, p.key
    LIMIT p_limit
$$;

GRANT EXECUTE ON FUNCTION nightshift.unowned_builds TO nightshift_orchestrator;
