-- For unowned_builds: notes the accounts of builds that were accepted since the last look.
CREATE OR REPLACE FUNCTION nightshift.note_build_accounts() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO nightshift.build_accounts (build_id, account_id, priority, max_active)
    SELECT p.key, d.data ->> 'account_id', coalesce(d.data ->> 'tier' = 'priority', false), (d.data ->> 'max_active_builds')::integer
    FROM nightshift.pending p
    JOIN nightshift.events e ON e.stream_id = p.stream_id AND e.version = 1
    CROSS JOIN LATERAL (SELECT e.data::json AS data) AS d
    WHERE p.kind = 'build' AND NOT EXISTS (SELECT FROM nightshift.build_accounts b WHERE b.build_id = p.key)
    ON CONFLICT (build_id) DO NOTHING
$$;
