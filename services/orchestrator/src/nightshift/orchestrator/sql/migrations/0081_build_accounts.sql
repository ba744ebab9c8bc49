-- The account of each build, and what decides about its place in the queue: read once from its `build.accepted`, so that no
-- look for builds to run reads the events.
CREATE TABLE nightshift.build_accounts (
    build_id text PRIMARY KEY,
    account_id text NOT NULL,
    priority boolean NOT NULL,
    max_active integer -- of the account; null: the setting of the orchestrators
);

-- It had one argument before the queue was fair among accounts.
DROP FUNCTION IF EXISTS nightshift.unowned_builds(integer);
