-- How many builds that have not ended are in each phase and state: sleeping, waiting (for a person or a provider) or running.
CREATE OR REPLACE FUNCTION nightshift.build_counts()
RETURNS TABLE (phase text, state text, builds bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH alive AS (
        SELECT p.stream_id,
            CASE
                WHEN bool_or(r.kind = 'sleeper') THEN 'sleeping'
                WHEN bool_or(r.kind IN ('waiting', 'provider')) THEN 'waiting'
                ELSE 'running'
            END AS state
        FROM nightshift.pending p
        LEFT JOIN nightshift.pending r
            ON r.stream_id = p.stream_id AND r.kind IN ('sleeper', 'waiting', 'provider')
        WHERE p.kind = 'build' GROUP BY p.stream_id
    )
    SELECT coalesce(c.phase, 'queued'), a.state, count(*)
    FROM alive a
    LEFT JOIN LATERAL (
        SELECT e.data::json->>'to_phase' AS phase FROM nightshift.events e
        WHERE e.stream_id = a.stream_id AND e.type = 'build.phase_changed'
        ORDER BY e.version DESC LIMIT 1
    ) c ON true
    GROUP BY 1, 2
$$;
