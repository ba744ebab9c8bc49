-- The role of the sandbox-gateway.
SELECT pg_temp.create_role('nightshift_sandbox_gateway');
