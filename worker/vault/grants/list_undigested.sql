-- A token that is replaced just now waits under its next version.
SELECT d.grant_id, d.version, g.refresh_ciphertext, g.tenant, g.connection, g.user_id, g.provider_user_id
FROM refresh_digests d JOIN grants g ON g.id = d.grant_id AND g.refresh_version = d.version
WHERE d.hash IS NULL AND g.refresh_ciphertext IS NOT NULL AND g.tenant = ANY (CAST(:tenants AS text[]))
ORDER BY d.grant_id LIMIT :limit
