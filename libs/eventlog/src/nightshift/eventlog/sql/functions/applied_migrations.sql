-- The names of the migrations that were applied. A service compares them with those of its own release before it starts.
CREATE OR REPLACE FUNCTION nightshift.applied_migrations() RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.name FROM nightshift.migrations m
$$;
