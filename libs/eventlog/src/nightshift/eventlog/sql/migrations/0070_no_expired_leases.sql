-- No service asks for expired leases: the orchestrator asks for builds without a lease (unowned_builds).
DROP FUNCTION IF EXISTS nightshift.expired_leases(text, integer);
