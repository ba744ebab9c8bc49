-- Returns 0 to one caller in each interval of a key: it may start a call now. Returns to the others the seconds to wait.
CREATE OR REPLACE FUNCTION nightshift.take_provider_turn(p_key text) RETURNS double precision
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH taken AS (
        UPDATE nightshift.provider_paces p SET next_at = clock_timestamp() + make_interval(secs => p.interval_s)
        WHERE p.key_id = p_key AND greatest(p.next_at, p.paused_until) <= clock_timestamp()
        RETURNING true
    )
    SELECT CASE WHEN EXISTS (SELECT FROM taken) THEN 0 ELSE coalesce((
        SELECT greatest(extract(epoch FROM greatest(p.next_at, p.paused_until) - clock_timestamp()), 0.01)
        FROM nightshift.provider_paces p WHERE p.key_id = p_key
    ), 0) END
$$;

GRANT EXECUTE ON FUNCTION nightshift.take_provider_turn TO nightshift_orchestrator;
