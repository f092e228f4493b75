SELECT e.*, coalesce((
    SELECT jsonb_agg(jsonb_build_object('webhook', webhook, 'state', state, 'attempts', attempts, 'next_at', next_at,
        'delivered_at', delivered_at, 'last_status', last_status, 'last_error', last_error) ORDER BY webhook)
    FROM deliveries d WHERE d.event_id = e.id), '[]') AS deliveries
FROM outbox e
WHERE e.tenant = ANY(:tenants) AND (CAST(:kind AS text) IS NULL OR e.kind = :kind)
    AND (CAST(:user_id AS text) IS NULL OR e.user_id = :user_id)
    AND (CAST(:connection AS text) IS NULL OR e.connection = :connection)
    AND (CAST(:since AS timestamptz) IS NULL OR e.at >= :since)
    AND (cardinality(CAST(:states AS text[])) = 0
        OR EXISTS (SELECT FROM deliveries d WHERE d.event_id = e.id AND d.state = ANY(CAST(:states AS text[]))))
ORDER BY e.at DESC, e.id LIMIT :limit
