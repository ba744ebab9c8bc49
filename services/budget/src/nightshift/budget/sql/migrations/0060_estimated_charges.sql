-- What was posted without a bill: a call that nobody saw answered is posted at its worst case. `estimated` is the part of
-- reservations.posted, and of accounts.spent_in_period, of which that is so.
ALTER TABLE nightshift.accounts ADD COLUMN estimated bigint NOT NULL DEFAULT 0;
ALTER TABLE nightshift.reservations ADD COLUMN estimated bigint NOT NULL DEFAULT 0;
