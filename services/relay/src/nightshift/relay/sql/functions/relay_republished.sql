-- Records that the unfinished streams of these shards were published again after this loss.
CREATE OR REPLACE FUNCTION nightshift.relay_republished(p_shards smallint[], p_loss bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE nightshift.relay_cursors SET loss = p_loss WHERE shard = ANY (p_shards) AND loss < p_loss
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_republished TO nightshift_relay;
