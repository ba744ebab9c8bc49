-- At every `nightshift db migrate`: all that is in the schema belongs to nightshift_owner, also after a restore that left
-- owners behind. Only what differs is touched: ALTER TABLE would wait for every open transaction.
DO $$
DECLARE
    v_statement text;
BEGIN
    FOR v_statement IN
        SELECT format('ALTER SCHEMA %I OWNER TO nightshift_owner', n.nspname)
        FROM pg_catalog.pg_namespace n
        WHERE n.nspname = 'nightshift' AND n.nspowner <> 'nightshift_owner'::regrole
        UNION ALL
        SELECT format('ALTER TABLE %s OWNER TO nightshift_owner', c.oid::regclass)
        FROM pg_catalog.pg_class c
        WHERE c.relnamespace = 'nightshift'::regnamespace AND c.relkind IN ('r', 'p', 'v')
            AND c.relowner <> 'nightshift_owner'::regrole
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO nightshift_owner', p.oid::regprocedure)
        FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'nightshift'::regnamespace AND p.proowner <> 'nightshift_owner'::regrole
    LOOP
        EXECUTE v_statement;
    END LOOP;
END
$$;
