-- Returns how far these shards are behind: the rows after their cursors, and the age of the oldest in seconds.
CREATE OR REPLACE FUNCTION nightshift.relay_lag(p_shards smallint[], OUT events bigint, OUT seconds double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    SELECT coalesce(sum(n.count), 0), coalesce(extract(epoch FROM clock_timestamp() - min(o.recorded_at)), 0)
    INTO events, seconds
    FROM nightshift.relay_cursors c
    CROSS JOIN LATERAL (
        SELECT count(*) FROM nightshift.events r WHERE r.shard = c.shard AND r.position > c.position
    ) AS n
    LEFT JOIN LATERAL (
        SELECT r.recorded_at FROM nightshift.events r
        WHERE r.shard = c.shard AND r.position > c.position ORDER BY r.shard, r.position LIMIT 1
    ) AS o ON true
    WHERE c.shard = ANY (p_shards);
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_lag TO nightshift_relay;
