-- Rows that older releases opened for sleeps and ends without a sandbox, and never closed: nothing is left to save.
DELETE FROM nightshift.pending p WHERE p.kind = 'snapshot' AND NOT EXISTS (
    SELECT FROM nightshift.pending s WHERE s.kind = 'sandbox' AND s.stream_id = p.stream_id
);
