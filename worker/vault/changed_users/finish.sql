-- Who was named again meanwhile is synced once more: what was read may be older than what changed.
UPDATE changed_users c SET
    claimed_until = NULL,
    synced_at = CASE WHEN c.reported_at = done.reported_at THEN clock_timestamp() END,
    due_at = CASE WHEN c.reported_at = done.reported_at THEN c.due_at
        ELSE clock_timestamp() + CAST(:interval AS interval) END
FROM unnest(CAST(:user_ids AS text[]), CAST(:times AS timestamptz[])) AS done (user_id, reported_at)
WHERE c.tenant = :tenant AND c.user_id = done.user_id
