-- One row for each value that monitoring shows: its metric, the labels, the value. A label that a metric lacks is null.
-- Grants are counted as by `status`: an access token that could be renewed and has ended counts as ended.
WITH counted AS (
    SELECT tenant, connection,
\ir ../grants/counted_state.sql
        AS counted_as,
        count(*) AS grants,
        min(expires_at) FILTER (WHERE state IN ('active', 'in_doubt', 'paused') AND expires_at > now()) AS next_end,
        count(*) FILTER (WHERE
\ir ../grants/is_late.sql
        ) AS late,
        min(next_renewal_at) FILTER (WHERE next_renewal_at < now() AND
\ir ../grants/is_renewable.sql
        ) AS due_since
    FROM token_status WHERE CAST(:tenants AS text[]) IS NULL OR tenant = ANY (:tenants)
    GROUP BY tenant, connection, counted_as
), by_connection AS (
    SELECT tenant, connection, sum(grants) FILTER (WHERE counted_as = 'ended') AS ended, min(next_end) AS next_end,
        sum(late) AS late, min(due_since) AS due_since
    FROM counted GROUP BY tenant, connection
), named AS (
    SELECT * FROM connections WHERE CAST(:tenants AS text[]) IS NULL OR tenant = ANY (:tenants)
)
SELECT 'grants' AS metric, tenant, connection, counted_as AS label, CAST(grants AS float8) AS value FROM counted
UNION ALL SELECT 'ended_tokens', tenant, connection, NULL, coalesce(ended, 0) FROM by_connection
UNION ALL SELECT 'soonest_end', tenant, connection, NULL, extract(epoch FROM next_end - now())
    FROM by_connection WHERE next_end IS NOT NULL
UNION ALL SELECT 'late_renewals', tenant, connection, NULL, late FROM by_connection
UNION ALL SELECT 'renewal_lag', tenant, connection, NULL, coalesce(extract(epoch FROM now() - due_since), 0)
    FROM by_connection
UNION ALL SELECT 'circuit', tenant, name, circuit_blame, 1 FROM named WHERE circuit_blame IS NOT NULL
UNION ALL SELECT 'problem', tenant, name, problem, 1 FROM named WHERE problem IS NOT NULL
UNION ALL SELECT 'paused', n.tenant, n.name, NULL, extract(epoch FROM now() - min(p.since))
    FROM named n JOIN pauses p ON p.tenant IN ('', n.tenant) AND p.connection IN ('', n.name) GROUP BY n.tenant, n.name
UNION ALL SELECT 'deliveries', NULL, NULL, state, (SELECT count(*) FROM deliveries d WHERE d.state = named_state.state)
    FROM (VALUES ('pending'), ('failed')) AS named_state (state)
UNION ALL SELECT 'refresh_requests', NULL, NULL, NULL, count(*)
    FROM refresh_requests WHERE handled_at IS NULL AND wanted_until > now()
UNION ALL SELECT 'changed_users', tenant, NULL, NULL, count(*) FROM changed_users
    WHERE synced_at IS NULL AND (CAST(:tenants AS text[]) IS NULL OR tenant = ANY (:tenants)) GROUP BY tenant
UNION ALL SELECT 'workers', NULL, NULL, served.queue, (
        SELECT count(*) FROM worker_heartbeats h
        WHERE served.queue = ANY (h.queues) AND h.seen_at > now() - CAST(:alive AS interval))
    FROM unnest(CAST(:queues AS text[])) AS served (queue)
UNION ALL SELECT 'last_sync', tenant, NULL, scope, extract(epoch FROM max(finished_at)) FROM sync_runs
    WHERE complete AND (CAST(:tenants AS text[]) IS NULL OR tenant = ANY (:tenants)) GROUP BY tenant, scope
