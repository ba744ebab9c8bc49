-- The role of the relay.
SELECT pg_temp.create_role('nightshift_relay');
