-- Builds that wait for the model provider and have no live lease. The longest waiting first.
CREATE OR REPLACE FUNCTION nightshift.builds_waiting_for_provider(p_limit integer)
RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.key FROM nightshift.pending p
    WHERE p.kind = 'provider' AND NOT EXISTS (
        SELECT FROM nightshift.leases l
        WHERE l.name = 'build/' || p.key AND l.owner IS NOT NULL AND l.expires_at > clock_timestamp()
    )
    ORDER BY p.opened_at, p.key LIMIT p_limit
$$;

GRANT EXECUTE ON FUNCTION nightshift.builds_waiting_for_provider TO nightshift_orchestrator, nightshift_reader;
