-- No receiver can learn of a forgotten user whose id is redacted.
INSERT INTO deliveries (event_id, webhook, queued_at, next_at)
SELECT e.id, w.webhook, :now, :now FROM outbox e JOIN
    \ir wanted_by.sql
WHERE e.tenant = ANY(:tenants) AND NOT (e.kind = 'user.forgotten' AND e.user_id IS NULL)
    AND (e.id = ANY(CAST(:ids AS uuid[])) OR (:failed AND EXISTS (
        SELECT FROM deliveries d WHERE d.event_id = e.id AND d.webhook = w.webhook AND d.state = 'failed')))
ON CONFLICT (event_id, webhook) DO UPDATE SET state = 'pending', queued_at = excluded.queued_at,
    next_at = excluded.next_at, attempts = 0, owner = NULL, delivered_at = NULL
RETURNING event_id
