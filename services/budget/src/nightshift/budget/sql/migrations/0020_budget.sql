-- The budget's books, beside the log that explains them.
--
-- `accounts` holds one row per account: its period, its day, what of the day is spent (`posted`) and reserved
-- (`pending`). Every change locks the row and is made in the transaction that appends the event saying so, so the books
-- and the log cannot disagree; both rows can be made again from the events. `reservations` holds each sum set aside for
-- a build until it ends, once, in one of four ways.

CREATE TABLE nightshift.accounts (
    account_id text PRIMARY KEY,
    time_zone text NOT NULL,
    period_start timestamptz NOT NULL,
    period_days integer NOT NULL,
    day_seconds double precision, -- null: real days
    period_budget bigint NOT NULL,
    period_number bigint NOT NULL,
    day text NOT NULL,
    day_limit bigint NOT NULL,
    posted bigint NOT NULL,
    pending bigint NOT NULL,
    spent_in_period bigint NOT NULL,
    credited bigint NOT NULL,
    reserved_before bigint NOT NULL,
    CONSTRAINT accounts_period_has_days CHECK (period_days > 0 AND (day_seconds IS NULL OR day_seconds > 0)),
    CONSTRAINT accounts_money_counts CHECK (
        least(period_budget, day_limit, posted, pending, spent_in_period, credited, reserved_before) >= 0
    ),
    -- What is over the limit was billed over a reservation (an overrun); it is never reserved.
    CONSTRAINT accounts_reserve_within_day CHECK (pending = 0 OR pending <= day_limit)
) WITH (fillfactor = 70);

CREATE TABLE nightshift.reservations (
    lease_id uuid PRIMARY KEY,
    account_id text NOT NULL REFERENCES nightshift.accounts,
    build_id text NOT NULL,
    day text NOT NULL,
    amount bigint NOT NULL,
    granted_event uuid NOT NULL,
    granted_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    outcome text,
    posted bigint,
    CONSTRAINT reservations_hold_money CHECK (amount > 0),
    CONSTRAINT reservations_end_known CHECK (outcome IN ('posted', 'voided', 'expired', 'overrun')),
    CONSTRAINT reservations_end_once CHECK ((outcome IS NULL) = (posted IS NULL)),
    CONSTRAINT reservations_overrun_is_over CHECK (posted IS NULL OR (outcome = 'overrun') = (posted > amount))
) WITH (fillfactor = 80);

CREATE INDEX reservations_unsettled ON nightshift.reservations (build_id, granted_at) WHERE outcome IS NULL;

GRANT SELECT, INSERT, UPDATE ON nightshift.accounts, nightshift.reservations TO nightshift_budget;
GRANT SELECT ON nightshift.accounts, nightshift.reservations TO nightshift_reader;
