-- Releases every lease of an owner and returns their number, for a process that restarts under its old name. The rows stay,
-- so that their fences are never used again.
CREATE OR REPLACE FUNCTION nightshift.release_leases(p_owner text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH freed AS (
        UPDATE nightshift.leases l SET owner = NULL, expires_at = NULL WHERE l.owner = p_owner RETURNING 1
    )
    SELECT count(*) FROM freed
$$;
