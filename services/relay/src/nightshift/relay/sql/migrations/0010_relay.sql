-- What the relay remembers: how far each shard is published, what the broker acknowledged last, and when it was found
-- to have lost its data.
--
-- `relay_cursors` has one row a shard. Everything up to `position` is acknowledged by the broker. It only moves
-- forward, and only on the session that leads the shard (an advisory lock on class 20042): a leader that lost its
-- session cannot move it. `loss` is the newest row of relay_losses after which the shard was published again.
--
-- `relay_published` has one row a topic-partition: the last record the broker acknowledged there. Read back, it tells
-- a broker that lost its data; what Kafka holds beyond it, compared with the log, tells a log that lost its own.
--
-- `relay_losses` has one row each time the broker was found to have lost acknowledged records. A shard whose cursor
-- names an older loss publishes its unfinished streams again, also when its leader died in the middle of that.

CREATE TABLE nightshift.relay_cursors (
    shard smallint PRIMARY KEY,
    position bigint NOT NULL DEFAULT 0,
    loss bigint NOT NULL DEFAULT 0,
    CONSTRAINT relay_cursors_shard_known CHECK (shard BETWEEN 0 AND 63),
    CONSTRAINT relay_cursors_counts CHECK (position >= 0 AND loss >= 0)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000); -- updated all the time

INSERT INTO nightshift.relay_cursors (shard) SELECT generate_series(0, 63);

CREATE TABLE nightshift.relay_published (
    topic text NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    event_id uuid NOT NULL,
    stream_id text NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (topic, partition),
    CONSTRAINT relay_published_counts CHECK (partition >= 0 AND record_offset >= 0 AND version > 0)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE nightshift.relay_losses (
    loss bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL
);
