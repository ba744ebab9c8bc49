-- For append_events: what the batch opens and closes. The arrays hold one net change for each kind and key; p_event is
-- the place in the batch of the event that opens (null: a close). A close with p_through leaves what a later event opened.
-- A snapshot opens only while the stream has an open sandbox (OPENS_ONLY_WITH in the contracts): without one there is
-- nothing to save, and nobody may wait for it.
CREATE OR REPLACE FUNCTION nightshift.change_pending(
    p_stream_id text,
    p_head_before bigint,
    p_now timestamptz,
    p_kinds text[],
    p_keys text[],
    p_event integer[],
    p_due_at timestamptz[],
    p_through bigint[]
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_snapshots boolean := 'snapshot' = ANY (p_kinds); -- whether one may open
BEGIN
    DELETE FROM nightshift.pending p
    USING unnest(p_kinds, p_keys, p_event, p_through) AS c (kind, key, event, through)
    WHERE c.event IS NULL AND p.kind = c.kind AND p.key = c.key AND p.stream_id = p_stream_id
        AND p.version <= COALESCE(c.through, p.version);

    IF v_snapshots THEN
        v_snapshots := EXISTS (
            SELECT FROM nightshift.pending s
            WHERE s.kind = 'sandbox' AND s.key = substr(p_stream_id, 7) AND s.stream_id = p_stream_id
        ) OR EXISTS (
            SELECT FROM unnest(p_kinds, p_event) AS c (kind, event) WHERE c.kind = 'sandbox' AND c.event IS NOT NULL
        );
    END IF;

    INSERT INTO nightshift.pending AS p (kind, key, stream_id, version, opened_at, due_at)
    SELECT c.kind, c.key, p_stream_id, p_head_before + c.event, p_now, c.due_at
    FROM unnest(p_kinds, p_keys, p_event, p_due_at) AS c (kind, key, event, due_at)
    WHERE c.event IS NOT NULL AND (c.kind <> 'snapshot' OR v_snapshots)
    ON CONFLICT (kind, key, stream_id) DO UPDATE
        SET version = excluded.version, opened_at = excluded.opened_at, due_at = excluded.due_at;
END
$$;
