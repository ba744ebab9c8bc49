-- The newest loss the broker was caught at (0: none): asked often, so that all leaders hear what one of them found.
CREATE OR REPLACE FUNCTION nightshift.relay_newest_loss() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(max(l.loss), 0) FROM nightshift.relay_losses l
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_newest_loss TO nightshift_relay;
