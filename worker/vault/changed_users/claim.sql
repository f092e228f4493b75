-- SKIP LOCKED lets workers claim side by side; a claim that outlives its worker ends by itself. As a subquery of the
-- join it could run once for each row, and claim more than the limit.
WITH due AS MATERIALIZED (
    SELECT tenant, user_id FROM changed_users
    WHERE tenant = :tenant AND synced_at IS NULL AND due_at <= now()
        AND (claimed_until IS NULL OR claimed_until <= now())
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE changed_users c SET claimed_until = now() + CAST(:claim AS interval)
FROM due WHERE c.tenant = due.tenant AND c.user_id = due.user_id
RETURNING c.user_id, c.reported_at
