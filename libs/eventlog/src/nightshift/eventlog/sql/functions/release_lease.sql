-- Releases a lease that this owner holds under this fence. The row stays, so that its fence is never used again.
CREATE OR REPLACE FUNCTION nightshift.release_lease(p_name text, p_owner text, p_fence bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE nightshift.leases l SET owner = NULL, expires_at = NULL
    WHERE l.name = p_name AND l.owner = p_owner AND l.fence = p_fence;
END
$$;
