-- Returns the pending rows that outlived their purpose, oldest first, each with the reason:
--
-- build_ended  the stream was closed more than p_grace ago. Two kinds of row may stay: the snapshot of the end, until it is
--              stored or given up, and the sandbox, until that snapshot is. The sandbox of a ready build serves its
--              preview and may always stay.
-- build_awake  the snapshot before a sleep, and for p_grace the build neither sleeps nor is about to wake.
-- overdue      the row is older than its kind allows, counted from due_at where it has one. p_kinds and p_allowed run in
--              step; a kind that is not in p_kinds may wait for ever.
CREATE OR REPLACE FUNCTION nightshift.stale_pending(
    p_kinds text[], p_allowed interval[], p_grace interval, p_limit integer
) RETURNS TABLE (
    kind text, key text, stream_id text, opened_at timestamptz, due_at timestamptz, reason text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT j.* FROM (
        SELECT p.kind, p.key, p.stream_id, p.opened_at, p.due_at, CASE
            WHEN s.closed_at <= clock_timestamp() - p_grace AND NOT (
                p.kind IN ('snapshot', 'sandbox') AND EXISTS (
                    SELECT FROM nightshift.pending c
                    WHERE c.stream_id = p.stream_id AND c.kind = 'snapshot' AND c.key LIKE '%/completion'
                        AND (p.kind = 'sandbox' OR p.key = c.key)
                )
            ) AND NOT (
                p.kind = 'sandbox' AND EXISTS (
                    SELECT FROM nightshift.events e WHERE e.stream_id = p.stream_id AND e.type = 'build.ready'
                )
            ) THEN 'build_ended'
            WHEN p.kind = 'snapshot' AND p.key LIKE '%/pre_sleep' AND p.opened_at <= clock_timestamp() - p_grace
                AND NOT EXISTS (
                    SELECT FROM nightshift.pending w
                    WHERE w.stream_id = p.stream_id AND w.kind IN ('sleeper', 'wake')
                ) THEN 'build_awake'
            WHEN coalesce(p.due_at, p.opened_at) <= clock_timestamp() - a.allowed THEN 'overdue'
        END AS reason
        FROM nightshift.pending p
        JOIN nightshift.streams s USING (stream_id)
        LEFT JOIN unnest(p_kinds, p_allowed) AS a (kind, allowed) ON a.kind = p.kind
    ) AS j
    WHERE j.reason IS NOT NULL
    ORDER BY j.opened_at, j.kind, j.key LIMIT p_limit
$$;
