-- Acquires a name that is free, expired, or already this owner's. Returns the new fence, or null while another owner has it.
CREATE OR REPLACE FUNCTION nightshift.acquire_lease(p_name text, p_owner text, p_ttl interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_fence bigint;
BEGIN
    INSERT INTO nightshift.leases AS l (name, owner, fence, expires_at)
    VALUES (p_name, p_owner, 1, clock_timestamp() + p_ttl)
    ON CONFLICT (name) DO UPDATE
        SET owner = excluded.owner, fence = l.fence + 1, expires_at = clock_timestamp() + p_ttl
        WHERE l.owner IS NULL OR l.owner = excluded.owner OR l.expires_at <= clock_timestamp()
    RETURNING l.fence INTO v_fence;
    RETURN v_fence;
END
$$;
