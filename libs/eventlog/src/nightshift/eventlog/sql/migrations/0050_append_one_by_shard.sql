-- append_one is told the shard now; the function of that name without it is nobody's.
DROP FUNCTION IF EXISTS nightshift.append_one(text, bigint, uuid, text, integer, text, text, uuid, text, text);
