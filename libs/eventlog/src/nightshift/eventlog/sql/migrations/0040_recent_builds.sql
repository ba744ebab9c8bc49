-- "Which builds were accepted last?" is asked by people: one small entry per build, and no other event pays for it.
CREATE INDEX events_accepted ON nightshift.events (recorded_at DESC) WHERE type = 'build.accepted';

-- `nightshift doctor` tells which migrations are applied, as the role that may only read.
GRANT SELECT ON nightshift.migrations TO nightshift_reader;
