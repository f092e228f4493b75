UPDATE grants SET missing_since = :now
WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased' AND missing_since IS NULL
    AND user_created_at >= CAST(:since AS timestamptz) AND user_created_at < CAST(:until AS timestamptz)
    AND user_id NOT IN (SELECT unnest(CAST(:observed_users AS text[])))
RETURNING id
