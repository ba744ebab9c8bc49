-- Returns a probe that was not made, so that another one can be made at once.
CREATE OR REPLACE FUNCTION nightshift.return_provider_probe(p_key text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE nightshift.provider_keys k SET probing = false, next_probe_at = clock_timestamp()
    WHERE k.key_id = p_key AND k.probing
$$;

GRANT EXECUTE ON FUNCTION nightshift.return_provider_probe TO nightshift_orchestrator;
