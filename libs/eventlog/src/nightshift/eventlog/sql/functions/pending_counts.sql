-- How many rows of each kind wait, and since when the oldest does.
CREATE OR REPLACE FUNCTION nightshift.pending_counts()
RETURNS TABLE (kind text, items bigint, oldest_s double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.kind, count(*), extract(epoch FROM clock_timestamp() - min(p.opened_at))::double precision
    FROM nightshift.pending p GROUP BY p.kind
$$;
