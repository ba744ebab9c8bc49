-- Before everything, at every `nightshift db migrate`: the roles, which belong to the cluster and not to the database,
-- and the schema. Another database of the cluster may create the same role at this moment, hence the exceptions.
DO $$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY[
        'nightshift_owner', 'nightshift_orchestrator', 'nightshift_sandbox_gateway', 'nightshift_snapshotter',
        'nightshift_budget', 'nightshift_relay', 'nightshift_reader'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN', v_role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
    -- Whoever migrates acts as the owner below; a superuser may anyway, an administrator of a hosted server must be let.
    IF NOT pg_catalog.pg_has_role(current_user, 'nightshift_owner', 'USAGE') THEN
        EXECUTE format('GRANT nightshift_owner TO %I', current_user);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'nightshift') THEN
        CREATE SCHEMA nightshift;
    END IF;
END
$$;
