-- Extends a lease that this owner holds under this fence. Returns false when it is lost. An expired lease is lost too, even
-- when nobody acquired it: another process may have seen it expired.
CREATE OR REPLACE FUNCTION nightshift.renew_lease(p_name text, p_owner text, p_fence bigint, p_ttl interval)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE nightshift.leases l SET expires_at = clock_timestamp() + p_ttl
    WHERE l.name = p_name AND l.owner = p_owner AND l.fence = p_fence AND l.expires_at > clock_timestamp();
    RETURN FOUND;
END
$$;
