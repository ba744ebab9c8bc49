-- Records that the broker lost acknowledged records: deletes relay_published and makes every shard publish again. p_seen is
-- the newest loss that the caller knows. Adds nothing when another leader recorded one since then.
CREATE OR REPLACE FUNCTION nightshift.relay_note_loss(p_reason text, p_seen bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_newest bigint;
BEGIN
    LOCK TABLE nightshift.relay_losses IN SHARE ROW EXCLUSIVE MODE;
    SELECT coalesce(max(loss), 0) INTO v_newest FROM nightshift.relay_losses;
    IF v_newest > p_seen THEN
        RETURN v_newest;
    END IF;
    DELETE FROM nightshift.relay_published;
    INSERT INTO nightshift.relay_losses (reason) VALUES (p_reason) RETURNING loss INTO v_newest;
    RETURN v_newest;
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_note_loss TO nightshift_relay;
