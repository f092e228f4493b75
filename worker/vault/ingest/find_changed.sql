-- Most of what Auth0 shows is what it showed before: Postgres picks out the rest, without a lock. One JSON parameter
-- stands for the whole page; arrays and rows of parameters cost more to send than the question itself.
SELECT incoming.n, g.id IS NULL, elsewhere.id
FROM jsonb_to_recordset(CAST(:incoming AS jsonb)) AS incoming(
    n integer, user_id text, connection text, tenant text, provider_user_id text,
    access text, refresh text, updated_at timestamptz, created_at timestamptz)
LEFT JOIN grants g USING (user_id, connection, tenant, provider_user_id)
-- An identity belongs to one user: known under another, it has moved, as accounts were linked or unlinked.
LEFT JOIN LATERAL (
    SELECT id FROM grants m
    WHERE g.id IS NULL AND m.provider_user_id = incoming.provider_user_id AND m.connection = incoming.connection
        AND m.tenant = incoming.tenant AND m.provider_user_id <> ''
    ORDER BY m.observed_updated_at DESC NULLS LAST, id DESC LIMIT 1
) elsewhere ON true
-- Some token is shown with each: what is not stored differs from nothing.
WHERE coalesce(decode(access, 'hex'), g.observed_access) IS DISTINCT FROM g.observed_access
    OR coalesce(decode(refresh, 'hex'), g.observed_refresh) IS DISTINCT FROM g.observed_refresh
    OR coalesce(updated_at, g.observed_updated_at) IS DISTINCT FROM g.observed_updated_at
    OR coalesce(incoming.created_at, g.user_created_at) IS DISTINCT FROM g.user_created_at
ORDER BY incoming.n
