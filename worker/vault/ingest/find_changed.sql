SELECT asked.n, g.id IS NULL, elsewhere.id
FROM jsonb_to_recordset(CAST(:asked AS jsonb)) AS asked(
    n integer, user_id text, connection text, tenant text, provider_user_id text,
    access text, refresh text, updated_at timestamptz, created_at timestamptz)
LEFT JOIN grants g USING (user_id, connection, tenant, provider_user_id)
-- An identity belongs to one user: known under another, it has moved, as accounts were linked or unlinked.
LEFT JOIN LATERAL (
    SELECT id FROM grants m
    WHERE g.id IS NULL AND m.provider_user_id = asked.provider_user_id AND m.connection = asked.connection
        AND m.tenant = asked.tenant AND m.provider_user_id <> ''
    ORDER BY m.observed_updated_at DESC NULLS LAST, id DESC LIMIT 1
) elsewhere ON true
WHERE g.id IS NULL
    OR coalesce(decode(access, 'hex'), g.observed_access) IS DISTINCT FROM g.observed_access
    OR coalesce(decode(refresh, 'hex'), g.observed_refresh) IS DISTINCT FROM g.observed_refresh
    OR coalesce(updated_at, g.observed_updated_at) IS DISTINCT FROM g.observed_updated_at
    OR coalesce(asked.created_at, g.user_created_at) IS DISTINCT FROM g.user_created_at
ORDER BY asked.n
