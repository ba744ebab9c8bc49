-- Rows of one stream, the newest first, both bounds inclusive, at most p_limit.
CREATE OR REPLACE FUNCTION nightshift.read_stream_backwards(p_stream_id text, p_from bigint, p_to bigint, p_limit integer)
RETURNS SETOF nightshift.events
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY SELECT * FROM nightshift.events e
    WHERE e.stream_id = p_stream_id AND e.version BETWEEN p_from AND p_to
    ORDER BY e.version DESC LIMIT p_limit;
END
$$;
