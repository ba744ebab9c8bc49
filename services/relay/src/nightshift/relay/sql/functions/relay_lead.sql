-- Takes the session locks of all these shards, or none. Returns true when this session leads them until it ends. 20042 is
-- the relay's class of advisory locks. Does not wait: a waiting statement would delay vacuum and index builds.
CREATE OR REPLACE FUNCTION nightshift.relay_lead(p_shards smallint[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_taken smallint[] := '{}';
    v_shard smallint;
BEGIN
    FOR v_shard IN SELECT n FROM unnest(p_shards) AS s (n) ORDER BY n LOOP
        IF NOT pg_try_advisory_lock(20042, v_shard) THEN
            PERFORM pg_advisory_unlock(20042, n) FROM unnest(v_taken) AS t (n);
            RETURN false;
        END IF;
        v_taken := v_taken || v_shard;
    END LOOP;
    RETURN true;
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_lead TO nightshift_relay;
