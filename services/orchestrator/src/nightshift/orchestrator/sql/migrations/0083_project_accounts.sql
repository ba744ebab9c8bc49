-- The account of each project: that of its first build. Only this account may request builds in the project, because they
-- share its files and the key of its digests.
CREATE TABLE nightshift.project_accounts (
    project_id text PRIMARY KEY,
    account_id text NOT NULL
);

INSERT INTO nightshift.project_accounts (project_id, account_id)
SELECT DISTINCT ON (d.data ->> 'project_id') d.data ->> 'project_id', d.data ->> 'account_id'
FROM nightshift.events e CROSS JOIN LATERAL (SELECT e.data::json AS data) AS d
WHERE e.type = 'build.accepted' AND e.version = 1
ORDER BY d.data ->> 'project_id', e.recorded_at, e.event_id;
