-- Returns the newest loss of the broker's data, 0 when there was none. Every leader reads it often, so that all of them
-- learn what one found.
CREATE OR REPLACE FUNCTION nightshift.relay_newest_loss() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(max(l.loss), 0) FROM nightshift.relay_losses l
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_newest_loss TO nightshift_relay;
