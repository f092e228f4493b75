-- The few that are marked are found by their own index.
UPDATE grants g SET missing_since = NULL, withdrawn_at = NULL
FROM
    \ir identities.sql
WHERE g.tenant = :tenant AND g.missing_since <= :before AND identity.user_id = g.user_id
    AND identity.connection = g.connection AND identity.provider_user_id = g.provider_user_id
