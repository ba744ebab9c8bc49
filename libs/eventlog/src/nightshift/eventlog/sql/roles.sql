-- Before everything, at every `nightshift db migrate`: the log's roles and the schema. The roles of a service are in its own
-- roles.sql, which calls pg_temp.create_role too.

-- Roles belong to the cluster and not to the database: another database of the cluster may create the same role at this
-- moment, hence the exceptions.
CREATE OR REPLACE FUNCTION pg_temp.create_role(p_name text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = p_name) THEN
        EXECUTE format('CREATE ROLE %I LOGIN', p_name);
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

SELECT pg_temp.create_role('nightshift_owner'), pg_temp.create_role('nightshift_reader');

DO $$
BEGIN
    -- Whoever migrates acts as the owner below; a superuser may anyway, an administrator of a hosted server must be let.
    IF NOT pg_catalog.pg_has_role(current_user, 'nightshift_owner', 'USAGE') THEN
        EXECUTE format('GRANT nightshift_owner TO %I', current_user);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'nightshift') THEN
        CREATE SCHEMA nightshift;
    END IF;
END
$$;
