-- What was asked for meanwhile, and for more than was claimed, is done next.
UPDATE refresh_requests SET
    claimed_until = NULL,
    handled_at = CASE WHEN requested_at = :requested_at THEN now() END,
    due_at = CASE WHEN requested_at = :requested_at THEN due_at ELSE now() + interval '1 second' END
WHERE grant_id = :grant_id AND requested_by = :requested_by
