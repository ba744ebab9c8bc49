-- Removes a process that stops in order.
CREATE OR REPLACE FUNCTION nightshift.forget_replica(p_replica_id text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM nightshift.replicas r WHERE r.replica_id = p_replica_id
$$;
