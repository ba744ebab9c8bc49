-- Returns the shard of a stream, 0 to 63. It never changes. Uses SHA-256, because hashtext() may differ between major
-- versions and a FIPS build refuses md5(). The cast is safe because a stream's name holds no backslash (streams_named).
CREATE OR REPLACE FUNCTION nightshift.shard_of(stream_id text) RETURNS smallint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (get_byte(sha256(stream_id::bytea), 0) & 63)::smallint;
