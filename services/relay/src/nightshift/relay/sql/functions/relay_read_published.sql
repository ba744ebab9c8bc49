-- Returns what the broker acknowledged last, by topic-partition.
CREATE OR REPLACE FUNCTION nightshift.relay_read_published() RETURNS SETOF nightshift.relay_published
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM nightshift.relay_published ORDER BY topic, partition
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_read_published TO nightshift_relay;
