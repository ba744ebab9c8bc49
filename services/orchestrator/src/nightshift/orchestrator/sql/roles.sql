-- The role of the orchestrator.
SELECT pg_temp.create_role('nightshift_orchestrator');
