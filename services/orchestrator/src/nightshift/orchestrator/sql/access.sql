-- What the orchestrator may do with the log. Its own functions say themselves who may call them.
GRANT USAGE ON SCHEMA nightshift TO nightshift_orchestrator;
GRANT EXECUTE ON FUNCTION
    nightshift.append_one, nightshift.append_events, nightshift.append_many,
    nightshift.read_stream, nightshift.read_stream_backwards, nightshift.read_shards, nightshift.read_open_streams,
    nightshift.pending_by_key, nightshift.pending_due, nightshift.applied_migrations,
    nightshift.note_replica, nightshift.forget_replica, nightshift.live_replicas,
    nightshift.acquire_lease, nightshift.renew_lease, nightshift.release_lease, nightshift.release_leases
TO nightshift_orchestrator;
