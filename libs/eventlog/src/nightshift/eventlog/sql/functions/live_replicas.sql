-- The processes that were seen in the last p_within, by service. `drained` says that the service is to take no work.
CREATE OR REPLACE FUNCTION nightshift.live_replicas(p_within interval)
RETURNS TABLE (
    service text, replica_id text, version text, started_at timestamptz, seen_at timestamptz,
    held integer, room integer, drained boolean
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.service, r.replica_id, r.version, r.started_at, r.seen_at, r.held, r.room, d.service IS NOT NULL
    FROM nightshift.replicas r LEFT JOIN nightshift.drained_services d USING (service)
    WHERE r.seen_at > clock_timestamp() - p_within
    ORDER BY r.service, r.replica_id
$$;
