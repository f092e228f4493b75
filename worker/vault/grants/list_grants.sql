-- By id, a page costs what it shows however many grants there are; a user's are found by their index.
SELECT * FROM token_status
WHERE
\ir grant_filter.sql
    AND CASE CAST(:sort AS text)
        WHEN 'expires' THEN (coalesce(expires_at, 'infinity'), id) > (CAST(CAST(:after_time AS text) AS timestamptz), CAST(:after_id AS bigint))
        WHEN 'user' THEN (coalesce(user_id, ''), id) > (CAST(:after_user AS text), CAST(:after_id AS bigint))
        ELSE id > CAST(:after_id AS bigint)
    END
ORDER BY
    CASE WHEN CAST(:sort AS text) = 'expires' THEN coalesce(expires_at, 'infinity') END,
    CASE WHEN CAST(:sort AS text) = 'user' THEN coalesce(user_id, '') END,
    id
LIMIT :limit
