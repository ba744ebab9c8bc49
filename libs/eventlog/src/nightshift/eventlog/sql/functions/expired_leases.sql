-- Names with this prefix whose owner let them expire, longest ago first.
CREATE OR REPLACE FUNCTION nightshift.expired_leases(p_prefix text, p_limit integer) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY SELECT l.name FROM nightshift.leases l
    WHERE l.expires_at <= clock_timestamp() AND starts_with(l.name, p_prefix)
    ORDER BY l.expires_at, l.name LIMIT p_limit;
END
$$;
