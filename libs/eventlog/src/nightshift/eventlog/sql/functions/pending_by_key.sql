-- What of this kind is open, by key.
CREATE OR REPLACE FUNCTION nightshift.pending_by_key(p_kind text, p_after_key text, p_limit integer)
RETURNS SETOF nightshift.pending
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY SELECT * FROM nightshift.pending p
    WHERE p.kind = p_kind AND p.key > p_after_key
    ORDER BY p.key, p.stream_id LIMIT p_limit;
END
$$;
