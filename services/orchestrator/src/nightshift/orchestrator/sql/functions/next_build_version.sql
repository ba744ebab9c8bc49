-- Returns the number of a build in its project: 1, 2, 3… without a gap. The same build gets the same number again.
CREATE OR REPLACE FUNCTION nightshift.next_build_version(p_project_id text, p_build_id text)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_number integer;
BEGIN
    -- One project at a time; 20053 is ours alone.
    PERFORM pg_advisory_xact_lock(20053, hashtext(p_project_id));
    SELECT b.build_version INTO v_number FROM nightshift.project_builds b WHERE b.build_id = p_build_id;
    IF v_number IS NULL THEN
        INSERT INTO nightshift.project_builds (build_id, project_id, build_version)
        SELECT p_build_id, p_project_id, coalesce(max(b.build_version), 0) + 1
        FROM nightshift.project_builds b WHERE b.project_id = p_project_id
        RETURNING build_version INTO v_number;
    END IF;
    RETURN v_number;
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.next_build_version TO nightshift_orchestrator;
