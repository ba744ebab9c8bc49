-- Whether a build's request for money has neither been granted nor denied: read under the account's lock, it makes the
-- answer one.
CREATE OR REPLACE FUNCTION nightshift.budget_request_waits(p_lease_id uuid)
RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM nightshift.pending p WHERE p.kind = 'budget_request' AND p.key = p_lease_id::text)
$$;

GRANT EXECUTE ON FUNCTION nightshift.budget_request_waits TO nightshift_budget;
