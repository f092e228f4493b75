UPDATE grants g SET
    observed_updated_at = greatest(g.observed_updated_at, identity.updated_at),
    user_created_at = coalesce(identity.created_at, g.user_created_at)
FROM
    \ir identities.sql
WHERE g.tenant = :tenant AND identity.user_id = g.user_id AND identity.connection = g.connection
    AND identity.provider_user_id = g.provider_user_id
    AND (coalesce(g.observed_updated_at, '-infinity') < identity.updated_at
        OR coalesce(identity.created_at, g.user_created_at) IS DISTINCT FROM g.user_created_at)
