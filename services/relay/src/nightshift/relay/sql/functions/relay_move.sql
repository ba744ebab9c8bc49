-- After the broker's acknowledgements: moves cursors forward, never backwards, and notes the last record of each
-- topic-partition. The published arrays run in step; groups of shards share the topic-partitions, so the highest
-- offset stays.
CREATE OR REPLACE FUNCTION nightshift.relay_move(
    p_shards smallint[], p_positions bigint[],
    p_topics text[], p_partitions integer[], p_offsets bigint[], p_event_ids uuid[], p_stream_ids text[], p_versions bigint[]
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE nightshift.relay_cursors c SET position = m.position
    FROM unnest(p_shards, p_positions) AS m (shard, position)
    WHERE c.shard = m.shard AND c.position < m.position;

    INSERT INTO nightshift.relay_published AS p (topic, partition, record_offset, event_id, stream_id, version)
    SELECT * FROM unnest(p_topics, p_partitions, p_offsets, p_event_ids, p_stream_ids, p_versions)
    ORDER BY 1, 2
    ON CONFLICT (topic, partition) DO UPDATE
    SET record_offset = excluded.record_offset, event_id = excluded.event_id, stream_id = excluded.stream_id,
        version = excluded.version
    WHERE p.record_offset < excluded.record_offset;
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.relay_move TO nightshift_relay;
