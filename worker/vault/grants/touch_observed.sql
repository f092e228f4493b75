UPDATE grants g SET
    observed_updated_at = greatest(g.observed_updated_at, shown.updated_at),
    user_created_at = coalesce(shown.created_at, g.user_created_at)
FROM unnest(CAST(:users AS text[]), CAST(:connections AS text[]), CAST(:subjects AS text[]),
    CAST(:changed AS timestamptz[]), CAST(:made AS timestamptz[]))
    AS shown(user_id, connection, provider_user_id, updated_at, created_at)
WHERE g.tenant = :tenant AND shown.user_id = g.user_id AND shown.connection = g.connection
    AND shown.provider_user_id = g.provider_user_id AND (coalesce(g.observed_updated_at, '-infinity') < shown.updated_at
        OR coalesce(shown.created_at, g.user_created_at) IS DISTINCT FROM g.user_created_at)
