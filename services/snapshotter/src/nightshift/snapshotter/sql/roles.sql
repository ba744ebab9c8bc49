-- The role of the snapshotter.
SELECT pg_temp.create_role('nightshift_snapshotter');
