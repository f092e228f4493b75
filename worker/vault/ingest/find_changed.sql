-- Most of what Auth0 shows is what it showed before: Postgres picks out the rest, without a lock.
SELECT incoming.n - 1, g.id IS NULL, elsewhere.id, (SELECT EXISTS (SELECT FROM grants WHERE state = 'erased'))
FROM unnest(CAST(:tenants AS text[]), CAST(:connections AS text[]), CAST(:users AS text[]), CAST(:identities AS text[]),
    CAST(:access AS bytea[]), CAST(:refresh AS bytea[]), CAST(:updated AS timestamptz[]), CAST(:created AS timestamptz[]))
    WITH ORDINALITY
    AS incoming(tenant, connection, user_id, provider_user_id, access, refresh, updated_at, created_at, n)
-- One by one: a plan that was made for an empty table, and is still used while it fills, would read all of it.
LEFT JOIN LATERAL (
    SELECT * FROM grants stored
    WHERE stored.user_id = incoming.user_id AND stored.connection = incoming.connection
        AND stored.tenant = incoming.tenant AND stored.provider_user_id = incoming.provider_user_id
    LIMIT 1
) g ON true
-- An identity belongs to one user: known under another, it has moved, as accounts were linked or unlinked.
LEFT JOIN LATERAL (
    SELECT id FROM grants m
    WHERE g.id IS NULL AND m.provider_user_id = incoming.provider_user_id AND m.connection = incoming.connection
        AND m.tenant = incoming.tenant AND m.provider_user_id <> ''
    LIMIT 1
) elsewhere ON true
-- Some token is shown with each: what is not stored differs from nothing.
WHERE coalesce(access, g.observed_access) IS DISTINCT FROM g.observed_access
    OR coalesce(refresh, g.observed_refresh) IS DISTINCT FROM g.observed_refresh
    OR coalesce(updated_at, g.observed_updated_at) IS DISTINCT FROM g.observed_updated_at
    OR coalesce(incoming.created_at, g.user_created_at) IS DISTINCT FROM g.user_created_at
ORDER BY incoming.n
