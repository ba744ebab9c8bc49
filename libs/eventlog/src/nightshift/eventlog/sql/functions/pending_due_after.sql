-- What of this kind is open and due by p_before, soonest first, after the row with this due time and key.
CREATE OR REPLACE FUNCTION nightshift.pending_due_after(
    p_kind text, p_before timestamptz, p_after_due timestamptz, p_after_key text, p_limit integer
)
RETURNS SETOF nightshift.pending
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY SELECT * FROM nightshift.pending p
    WHERE p.kind = p_kind AND p.due_at <= p_before AND (p.due_at, p.key) > (p_after_due, p_after_key)
    ORDER BY p.due_at, p.key LIMIT p_limit;
END
$$;
