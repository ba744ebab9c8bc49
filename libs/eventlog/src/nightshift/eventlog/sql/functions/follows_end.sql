-- For append_events: returns whether a type that may not follow an end comes after an end in this batch.
CREATE OR REPLACE FUNCTION nightshift.follows_end(p_types text[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT max(n.place) FILTER (WHERE NOT t.after_close) > min(n.place) FILTER (WHERE t.terminal)
    FROM unnest(p_types) WITH ORDINALITY AS n (type, place) JOIN nightshift.event_types t ON t.type = n.type
$$;
