-- What the installation has in hand: for each kind of pending work, and for each kind of lease (`lease/build`), its number
-- and, for pending work, since when the oldest waits.
CREATE OR REPLACE FUNCTION nightshift.work_summary()
RETURNS TABLE (kind text, number bigint, oldest timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.kind, count(*), min(p.opened_at) FROM nightshift.pending p GROUP BY p.kind
    UNION ALL
    SELECT 'lease/' || split_part(l.name, '/', 1), count(*), NULL FROM nightshift.leases l
    WHERE l.owner IS NOT NULL AND l.expires_at > clock_timestamp() GROUP BY 1
    ORDER BY 1
$$;
