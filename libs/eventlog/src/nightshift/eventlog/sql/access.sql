-- What the role that only reads may do with the log.
GRANT USAGE ON SCHEMA nightshift TO nightshift_reader;
GRANT EXECUTE ON FUNCTION
    nightshift.read_stream, nightshift.read_stream_backwards, nightshift.read_shards, nightshift.read_open_streams,
    nightshift.pending_by_key, nightshift.pending_due, nightshift.pending_due_after,
    nightshift.recent_builds, nightshift.stale_pending, nightshift.pending_counts, nightshift.build_counts,
    nightshift.applied_migrations,
    nightshift.live_replicas, nightshift.work_summary
TO nightshift_reader;
