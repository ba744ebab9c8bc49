-- Notes that a process runs: `p_held` pieces of work are in its hands, and it would take `p_room` more. Returns whether its
-- service is drained. Removes the processes that have not been seen for an hour.
CREATE OR REPLACE FUNCTION nightshift.note_replica(
    p_replica_id text, p_service text, p_version text, p_held integer, p_room integer
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO nightshift.replicas AS r (replica_id, service, version, started_at, seen_at, held, room)
    VALUES (p_replica_id, p_service, p_version, clock_timestamp(), clock_timestamp(), p_held, p_room)
    ON CONFLICT (replica_id) DO UPDATE SET
        service = excluded.service, version = excluded.version, seen_at = excluded.seen_at,
        held = excluded.held, room = excluded.room;
    DELETE FROM nightshift.replicas r
    WHERE r.service = p_service AND r.seen_at < clock_timestamp() - interval '1 hour';
    RETURN EXISTS (SELECT FROM nightshift.drained_services d WHERE d.service = p_service);
END
$$;
