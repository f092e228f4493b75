UPDATE grants SET missing_since = :now
WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased' AND missing_since IS NULL
    AND user_created_at >= coalesce(CAST(:since AS timestamptz), '-infinity') AND user_created_at < :until
    AND NOT user_id = ANY(:observed_users)
RETURNING id
