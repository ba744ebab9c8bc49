-- The role of the budget service.
SELECT pg_temp.create_role('nightshift_budget');
