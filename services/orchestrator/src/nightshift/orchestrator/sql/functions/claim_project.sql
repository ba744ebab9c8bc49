-- Returns the account of a project. A project without one belongs to `p_account_id` from now on.
CREATE OR REPLACE FUNCTION nightshift.claim_project(p_project_id text, p_account_id text)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_account text;
BEGIN
    INSERT INTO nightshift.project_accounts (project_id, account_id) VALUES (p_project_id, p_account_id)
    ON CONFLICT (project_id) DO NOTHING;
    -- A statement of its own, so that it sees what another transaction has just committed.
    SELECT a.account_id INTO STRICT v_account FROM nightshift.project_accounts a WHERE a.project_id = p_project_id;
    RETURN v_account;
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.claim_project TO nightshift_orchestrator;
