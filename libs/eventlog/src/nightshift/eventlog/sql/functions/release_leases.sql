-- Frees every lease of an owner, and answers how many: for one that starts again under the name of its former self. The
-- rows stay: their fences must never be drawn again.
CREATE OR REPLACE FUNCTION nightshift.release_leases(p_owner text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH freed AS (
        UPDATE nightshift.leases l SET owner = NULL, expires_at = NULL WHERE l.owner = p_owner RETURNING 1
    )
    SELECT count(*) FROM freed
$$;
