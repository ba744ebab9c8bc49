-- Builds that have not ended, with what decides when they run:
--
-- queued  accepted and not started.
-- rests   it sleeps, or waits for a person or a provider and its wait is not due.
-- place   of a queued build: the number of active builds that its account would have with it. 0 when its deadline has come,
--         because it only ends then. A paused build takes no place from the others.
-- most    how many active builds its account may have.
CREATE OR REPLACE FUNCTION nightshift.build_queue(p_per_account integer)
RETURNS TABLE (
    build_id text, account_id text, opened_at timestamptz, queued boolean, rests boolean, place bigint, most integer
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH alive AS (
        SELECT p.key, p.opened_at, a.account_id, a.priority, coalesce(a.max_active, p_per_account) AS most,
            q.key IS NOT NULL AS queued,
            coalesce(q.due_at <= clock_timestamp(), false) AS overdue,
            s.key IS NOT NULL OR coalesce(w.due_at > clock_timestamp(), w.key IS NOT NULL) AS rests,
            coalesce(w.kind = 'waiting', false) AS waits_for_person
        FROM nightshift.pending p
        JOIN nightshift.build_accounts a ON a.build_id = p.key
        LEFT JOIN nightshift.pending q ON q.kind = 'queued' AND q.key = p.key AND q.stream_id = p.stream_id
        LEFT JOIN nightshift.pending s ON s.kind = 'sleeper' AND s.key = p.key AND s.stream_id = p.stream_id
        LEFT JOIN nightshift.pending w
            ON w.kind IN ('waiting', 'provider') AND w.key = p.key AND w.stream_id = p.stream_id
        WHERE p.kind = 'build'
    )
    SELECT b.key, b.account_id, b.opened_at, b.queued, b.rests,
        CASE WHEN b.queued AND NOT b.overdue THEN
            count(*) FILTER (WHERE NOT b.queued AND NOT b.waits_for_person) OVER (PARTITION BY b.account_id)
            + row_number() OVER (PARTITION BY b.account_id, b.queued, b.rests ORDER BY b.priority DESC, b.opened_at, b.key)
        ELSE 0 END,
        b.most
    FROM alive b
$$;

GRANT EXECUTE ON FUNCTION nightshift.build_queue TO nightshift_reader;
