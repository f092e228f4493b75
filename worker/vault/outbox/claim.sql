WITH due AS (
    SELECT event_id FROM deliveries WHERE webhook = :webhook AND state = 'pending' AND next_at <= :now
    ORDER BY next_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE deliveries d SET owner = :owner, next_at = :until
FROM due JOIN outbox e ON e.id = due.event_id
WHERE d.event_id = due.event_id AND d.webhook = :webhook
RETURNING d.attempts, d.queued_at, e.id, e.kind, e.at, e.tenant, e.connection, e.user_id, e.provider_user_id,
    e.provider, e.state, e.reason, e.since, e.expires_at, e.message
