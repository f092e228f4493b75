-- The longest waiting request of each role comes first, so that one role's many requests do not hold up another's.
-- SKIP LOCKED lets workers claim side by side; a claim that outlives its worker ends by itself.
-- The commit is not waited for on disk: a claim that a crash of Postgres takes back is made again, at no harm.
WITH pending AS (
    SELECT r.grant_id, r.requested_by, r.resource, r.scope, r.due_at,
        row_number() OVER (PARTITION BY r.requested_by ORDER BY r.due_at) AS turn
    FROM refresh_requests r JOIN grants g ON g.id = r.grant_id
    WHERE r.handled_at IS NULL AND r.due_at <= now() AND r.wanted_until > now()
        AND (r.claimed_until IS NULL OR r.claimed_until <= now()) AND g.tenant = ANY (:tenants)
), claimed AS (
    SELECT grant_id, requested_by, resource, scope
    FROM refresh_requests r JOIN pending USING (grant_id, requested_by, resource, scope)
    WHERE r.handled_at IS NULL AND (r.claimed_until IS NULL OR r.claimed_until <= now())
    ORDER BY pending.turn, pending.due_at LIMIT :limit FOR UPDATE OF r SKIP LOCKED
)
UPDATE refresh_requests r SET claimed_until = now() + CAST(:claim AS interval)
FROM claimed WHERE r.grant_id = claimed.grant_id AND r.requested_by = claimed.requested_by
    AND r.resource = claimed.resource AND r.scope = claimed.scope
RETURNING r.grant_id, r.requested_by, r.requested_at, r.min_ttl, r.rejected_version, r.resource,
    r.scope, r.request_id, r.traceparent, set_config('synchronous_commit', 'off', true)
