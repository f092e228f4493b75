UPDATE grants g SET missing_since = :now
WHERE g.user_id = ANY(:user_ids) AND g.tenant = :tenant AND g.missing_since IS NULL AND g.state <> 'erased'
    AND NOT EXISTS (
        SELECT FROM unnest(CAST(:users AS text[]), CAST(:connections AS text[]), CAST(:subjects AS text[]))
            AS shown(user_id, connection, provider_user_id)
        WHERE shown.user_id = g.user_id AND shown.connection = g.connection
            AND shown.provider_user_id = g.provider_user_id)
RETURNING id
