-- Builds that somebody should be running and nobody is: without a live lease, first those that have started, then the queued
-- ones of the accounts with the fewest active builds. An account has at most p_per_account of them, or as many as its policy
-- says.
CREATE OR REPLACE FUNCTION nightshift.unowned_builds(p_limit integer, p_per_account integer)
RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM nightshift.note_build_accounts();
    RETURN QUERY SELECT b.build_id FROM nightshift.build_queue(p_per_account) b
    WHERE NOT b.rests AND b.place <= b.most AND NOT EXISTS (
        SELECT FROM nightshift.leases l
        WHERE l.name = 'build/' || b.build_id AND l.owner IS NOT NULL AND l.expires_at > clock_timestamp()
    )
    ORDER BY b.place, b.opened_at, b.build_id LIMIT p_limit;
END
$$;

GRANT EXECUTE ON FUNCTION nightshift.unowned_builds TO nightshift_orchestrator;
