-- Ends one page of a scan in one round trip. Its parts touch different grants: those of users on the page that seem
-- gone or are there after all, and those of other users of its time range.
WITH unlinked AS (
    \ir ../grants/mark_unlinked.sql
), present AS (
    \ir ../grants/unmark_observed.sql
), absent AS (
    \ir ../grants/mark_time_range.sql
), following AS (
    INSERT INTO sync_cursors (tenant, feed, token, page, read_until, run_id)
    SELECT :tenant, :feed, token, page, read_until, run_id
    FROM jsonb_to_recordset(CAST(:following AS jsonb))
        AS following(token text, page integer, read_until timestamptz, run_id bigint)
    ON CONFLICT (tenant, feed) DO UPDATE SET
        token = excluded.token, page = excluded.page, read_until = excluded.read_until, run_id = excluded.run_id
)
SELECT (SELECT count(*) FROM unlinked) + (SELECT count(*) FROM absent), clock_timestamp(),
    -- No wait for the disk: where Postgres crashes, marks and cursor are lost together, and the scan reads those pages
    -- again. What ends the scan is flushed, and this before it.
    set_config('synchronous_commit', 'off', true)
