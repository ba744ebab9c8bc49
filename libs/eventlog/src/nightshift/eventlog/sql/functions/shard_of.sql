-- The shard of a stream: 0 to 63, for ever. SHA-256 and not hashtext(), whose values may differ in another major version;
-- not md5(), which a FIPS build refuses. The cast is safe because a stream's name holds no backslash (streams_named).
CREATE OR REPLACE FUNCTION nightshift.shard_of(stream_id text) RETURNS smallint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (get_byte(sha256(stream_id::bytea), 0) & 63)::smallint;
