WITH fresh AS (
    SELECT id FROM outbox WHERE queued_at IS NULL AND tenant = ANY(:tenants)
    ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED
), e AS (
    UPDATE outbox SET queued_at = :now FROM fresh WHERE outbox.id = fresh.id RETURNING outbox.id, kind, tenant
)
INSERT INTO deliveries (event_id, webhook, queued_at, next_at)
SELECT e.id, w.webhook, :now, :now FROM e JOIN
    \ir wanted_by.sql
ON CONFLICT DO NOTHING
