-- Returns whether a build's request for money is neither granted nor denied yet. The caller holds the account's lock, so
-- that a request is answered once.
CREATE OR REPLACE FUNCTION nightshift.budget_request_waits(p_lease_id uuid)
RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM nightshift.pending p WHERE p.kind = 'budget_request' AND p.key = p_lease_id::text)
$$;

GRANT EXECUTE ON FUNCTION nightshift.budget_request_waits TO nightshift_budget;
