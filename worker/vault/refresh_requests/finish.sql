-- What was asked for meanwhile, and for more than was claimed, is done next. The commit is
-- not waited for on disk: a request that a crash of Postgres opens again finds a fresh token.
-- Who asks again and does not commit holds the lock of the row, and is waited for no longer than commits take.
WITH bounded AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '500ms', true)
)
UPDATE refresh_requests SET
    claimed_until = NULL,
    handled_at = CASE WHEN requested_at = :requested_at THEN now() END,
    due_at = CASE WHEN requested_at = :requested_at THEN due_at ELSE now() + interval '1 second' END
FROM bounded
WHERE grant_id = :grant_id AND requested_by = :requested_by AND resource = :resource AND scope = :scope
