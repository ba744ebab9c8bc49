-- Which processes of the services run, and which services are drained: they finish their work and take no more.
CREATE TABLE nightshift.replicas (
    replica_id text PRIMARY KEY,
    service text NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    held integer NOT NULL,
    room integer NOT NULL,
    CONSTRAINT replicas_counted CHECK (held >= 0 AND room >= 0)
);

CREATE TABLE nightshift.drained_services (
    service text PRIMARY KEY,
    since timestamptz NOT NULL
);
