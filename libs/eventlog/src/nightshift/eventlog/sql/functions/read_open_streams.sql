-- Rows of these shards' streams that are not finished (open, or closed with something still waiting), by stream and
-- version, after a given place: what is published again when the broker lost what it held.
CREATE OR REPLACE FUNCTION nightshift.read_open_streams(
    p_shards smallint[], p_after_stream text, p_after_version bigint, p_limit integer
) RETURNS SETOF nightshift.events
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN QUERY SELECT e.* FROM (
        SELECT s.stream_id FROM nightshift.streams s
        WHERE s.shard = ANY (p_shards) AND s.stream_id >= p_after_stream
            AND (s.closed_at IS NULL
                OR EXISTS (SELECT FROM nightshift.pending p WHERE p.stream_id = s.stream_id))
        ORDER BY s.stream_id
    ) AS s
    JOIN LATERAL (
        SELECT * FROM nightshift.events r
        WHERE r.stream_id = s.stream_id
            AND r.version > CASE WHEN s.stream_id = p_after_stream THEN p_after_version ELSE 0 END
        ORDER BY r.version
    ) AS e ON true
    LIMIT p_limit;
END
$$;
