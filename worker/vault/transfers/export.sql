SELECT g.id, g.tenant, g.connection, g.user_id, g.provider_user_id, g.refresh_ciphertext, g.refresh_version, g.scopes,
    coalesce(g.consented_at, g.observed_updated_at, g.imported_at, g.created_at) AS consented_at
FROM grants g JOIN connections c ON c.tenant = g.tenant AND c.name = g.connection
WHERE g.id > :after AND g.state <> 'erased'
    AND (:tenant = '' OR g.tenant = :tenant) AND (:connection = '' OR g.connection = :connection)
    AND
\ir left_out.sql
    IS NULL
ORDER BY g.id LIMIT :limit
