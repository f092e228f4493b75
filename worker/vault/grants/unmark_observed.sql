UPDATE grants g SET missing_since = NULL
FROM unnest(CAST(:users AS text[]), CAST(:connections AS text[]), CAST(:subjects AS text[]))
    AS shown(user_id, connection, provider_user_id)
WHERE g.tenant = :tenant AND g.missing_since <= :before AND shown.user_id = g.user_id
    AND shown.connection = g.connection AND shown.provider_user_id = g.provider_user_id
