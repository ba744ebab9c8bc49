-- Starts no call with a key for p_pause. With p_spaced the interval between its calls doubles, too, unless the refused call
-- started before it last did: calls that were in flight together are refused together, for one reason. p_started and p_now are
-- by the clock of the replica.
CREATE OR REPLACE FUNCTION nightshift.slow_provider_calls(
    p_key text, p_started timestamptz, p_now timestamptz, p_pause interval, p_spaced boolean,
    p_first double precision, p_longest double precision
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO nightshift.provider_paces AS p (key_id, interval_s, paused_until, slowed_at, next_at)
    VALUES (
        p_key, CASE WHEN p_spaced THEN p_first ELSE 0 END, clock_timestamp() + p_pause,
        CASE WHEN p_spaced THEN p_now END, clock_timestamp()
    )
    ON CONFLICT (key_id) DO UPDATE SET
        paused_until = greatest(p.paused_until, excluded.paused_until),
        interval_s = CASE
            WHEN p_spaced AND coalesce(p.slowed_at < p_started, true)
            THEN least(p_longest, greatest(p.interval_s * 2, p_first))
            ELSE p.interval_s
        END,
        slowed_at = CASE
            WHEN p_spaced AND coalesce(p.slowed_at < p_started, true) THEN p_now
            ELSE p.slowed_at
        END
$$;

GRANT EXECUTE ON FUNCTION nightshift.slow_provider_calls TO nightshift_orchestrator;
