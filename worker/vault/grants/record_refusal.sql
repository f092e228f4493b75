-- A grant remembers so many targets that were refused; the oldest refusal makes room. No token does: an app that asks for
-- what it does not get takes none from others.
WITH evicted AS (
    DELETE FROM resource_tokens r USING (
        SELECT grant_id, resource, scope FROM resource_tokens
        WHERE grant_id = :id AND ciphertext IS NULL AND (resource, scope) <> (:resource, :scope)
        ORDER BY refused_at DESC OFFSET 31
    ) old
    WHERE r.grant_id = old.grant_id AND r.resource = old.resource AND r.scope = old.scope
)
INSERT INTO resource_tokens (grant_id, resource, scope, refusal, refusal_blame, refused_at)
SELECT id, :resource, :scope, :code, :blame, CAST(:now AS timestamptz) FROM grants WHERE id = :id AND state <> 'erased'
ON CONFLICT (grant_id, resource, scope) DO UPDATE SET
    refusal = excluded.refusal, refusal_blame = excluded.refusal_blame, refused_at = excluded.refused_at
RETURNING grant_id
