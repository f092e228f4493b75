-- A connection that is followed for the first time has all its tokens waiting.
WITH followed AS (
    UPDATE connections SET digests_tokens = true
    WHERE tenant = ANY (CAST(:tenants AS text[])) AND name = ANY (CAST(:connections AS text[])) AND NOT digests_tokens
    RETURNING tenant, name
)
INSERT INTO refresh_digests (grant_id, version)
SELECT g.id, g.refresh_version FROM grants g JOIN followed f ON f.tenant = g.tenant AND f.name = g.connection
WHERE g.refresh_ciphertext IS NOT NULL
ON CONFLICT (grant_id) DO NOTHING
