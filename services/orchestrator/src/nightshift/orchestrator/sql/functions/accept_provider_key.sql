-- Notes that the provider accepts a key. Returns true for the note that ends an incident.
CREATE OR REPLACE FUNCTION nightshift.accept_provider_key(p_key text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH recovered AS (
        UPDATE nightshift.provider_keys k SET refused_at = NULL, refusals = 0, probing = false
        WHERE k.key_id = p_key AND k.refused_at IS NOT NULL
        RETURNING true
    )
    SELECT EXISTS (SELECT FROM recovered)
$$;

GRANT EXECUTE ON FUNCTION nightshift.accept_provider_key TO nightshift_orchestrator;
