-- Shortens the interval between the calls of a key by a fifth. Below p_shortest seconds calls are not spaced any more.
CREATE OR REPLACE FUNCTION nightshift.quicken_provider_calls(p_key text, p_shortest double precision) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE nightshift.provider_paces p
    SET interval_s = CASE WHEN p.interval_s * 0.8 < p_shortest THEN 0 ELSE p.interval_s * 0.8 END
    WHERE p.key_id = p_key AND p.interval_s > 0
$$;

GRANT EXECUTE ON FUNCTION nightshift.quicken_provider_calls TO nightshift_orchestrator;
