-- Notes that the provider refuses a key. Returns true for the first note of an incident. The refusal of a probe doubles the
-- time until the next one; the refusals of calls that were in flight together change nothing.
CREATE OR REPLACE FUNCTION nightshift.refuse_provider_key(
    p_key text, p_kind text, p_status integer, p_detail text, p_first interval, p_longest interval
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_known nightshift.provider_keys;
BEGIN
    INSERT INTO nightshift.provider_keys (key_id, kind, detail, next_probe_at)
    VALUES (p_key, p_kind, p_detail, clock_timestamp()) ON CONFLICT (key_id) DO NOTHING;
    SELECT * INTO v_known FROM nightshift.provider_keys k WHERE k.key_id = p_key FOR UPDATE;
    IF v_known.refused_at IS NOT NULL AND NOT v_known.probing THEN
        RETURN false;
    END IF;
    UPDATE nightshift.provider_keys k SET
        kind = p_kind,
        status = p_status,
        detail = p_detail,
        refused_at = coalesce(k.refused_at, clock_timestamp()),
        refusals = CASE WHEN k.probing THEN k.refusals + 1 ELSE 0 END,
        probing = false,
        next_probe_at = clock_timestamp()
            + least(p_longest, p_first * power(2, CASE WHEN k.probing THEN least(k.refusals + 1, 20) ELSE 0 END)),
        incidents = k.incidents + CASE WHEN k.refused_at IS NULL THEN 1 ELSE 0 END
    WHERE k.key_id = p_key;
    RETURN v_known.refused_at IS NULL;
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.refuse_provider_key TO nightshift_orchestrator;
