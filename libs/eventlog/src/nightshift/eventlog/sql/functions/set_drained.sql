-- Begins or ends the drain of a service. Only whoever may migrate may call it.
CREATE OR REPLACE FUNCTION nightshift.set_drained(p_service text, p_drained boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_drained THEN
        INSERT INTO nightshift.drained_services AS d (service, since) VALUES (p_service, clock_timestamp())
        ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM nightshift.drained_services d WHERE d.service = p_service;
    END IF;
END
$$;
