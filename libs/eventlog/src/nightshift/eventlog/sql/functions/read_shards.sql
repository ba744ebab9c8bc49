-- Returns up to p_limit rows of each shard after its position, in commit order within a shard. One index probe a shard.
CREATE OR REPLACE FUNCTION nightshift.read_shards(p_shards smallint[], p_after bigint[], p_limit integer)
RETURNS SETOF nightshift.events
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN QUERY SELECT e.* FROM unnest(p_shards, p_after) AS c (shard, after)
    CROSS JOIN LATERAL (
        SELECT * FROM nightshift.events r
        WHERE r.shard = c.shard AND r.position > c.after
        ORDER BY r.shard, r.position LIMIT p_limit
    ) AS e;
END
$$;
