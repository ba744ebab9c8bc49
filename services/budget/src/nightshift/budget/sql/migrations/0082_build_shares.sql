-- What each build has had of its account's money, and whether it waits for more: what decides who is served next, and what
-- a forecast is made of. Written in the transaction that grants, denies or settles; it can be made again from the events.
CREATE TABLE nightshift.build_shares (
    build_id text PRIMARY KEY,
    account_id text NOT NULL,
    priority boolean NOT NULL,
    day text NOT NULL,
    spent_today bigint NOT NULL,
    spent bigint NOT NULL,
    needs bigint NOT NULL,
    waits_since timestamptz, -- null: it has money, or does not want any
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- its first request
    ended_at timestamptz,
    outcome text, -- the type of the event that ended it
    CONSTRAINT build_shares_end_known CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT build_shares_money_counts CHECK (least(spent_today, spent, needs) >= 0)
) WITH (fillfactor = 70);

CREATE INDEX build_shares_alive ON nightshift.build_shares (account_id) WHERE ended_at IS NULL;
CREATE INDEX build_shares_ended ON nightshift.build_shares (account_id, ended_at) WHERE ended_at IS NOT NULL;

GRANT SELECT, INSERT, UPDATE ON nightshift.build_shares TO nightshift_budget;
GRANT SELECT ON nightshift.build_shares TO nightshift_reader;
