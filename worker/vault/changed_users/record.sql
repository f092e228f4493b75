-- One row a user, however often it is named. Whoever was synced just now waits a moment, so that a user who is named
-- again and again costs one call in that time. In one order, or two hooks could wait for each other's rows.
INSERT INTO changed_users AS c (tenant, user_id, reported_at, due_at)
SELECT :tenant, user_id, clock_timestamp(), clock_timestamp()
FROM unnest(CAST(:user_ids AS text[])) AS user_id ORDER BY user_id
ON CONFLICT (tenant, user_id) DO UPDATE SET
    reported_at = excluded.reported_at,
    due_at = CASE WHEN c.synced_at IS NULL THEN c.due_at
        ELSE greatest(excluded.due_at, c.synced_at + CAST(:interval AS interval)) END,
    synced_at = NULL
