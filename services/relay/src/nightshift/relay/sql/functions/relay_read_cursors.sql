-- Returns the cursors of these shards, and the newest loss of the broker's data (0: none).
CREATE OR REPLACE FUNCTION nightshift.relay_read_cursors(p_shards smallint[])
RETURNS TABLE (shard smallint, "position" bigint, loss bigint, newest_loss bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.shard, c.position, c.loss, coalesce((SELECT max(l.loss) FROM nightshift.relay_losses l), 0)
    FROM nightshift.relay_cursors c WHERE c.shard = ANY (p_shards) ORDER BY c.shard
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_read_cursors TO nightshift_relay;
