-- Returns true to one caller when it is time to try a refused key again. Nobody else gets true for p_hold, unless the probe
-- is refused or returned before.
CREATE OR REPLACE FUNCTION nightshift.take_provider_probe(p_key text, p_hold interval) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH taken AS (
        UPDATE nightshift.provider_keys k SET probing = true, next_probe_at = clock_timestamp() + p_hold
        WHERE k.key_id = p_key AND k.refused_at IS NOT NULL AND k.next_probe_at <= clock_timestamp()
        RETURNING true
    )
    SELECT EXISTS (SELECT FROM taken)
$$;

GRANT EXECUTE ON FUNCTION nightshift.take_provider_probe TO nightshift_orchestrator;
