-- As report_rejected, for all grants of an account, or those whose refresh token an event names: each is renewed at
-- once, or a minute after its last renewal, and the provider's answer says what became of it. Dead and erased grants
-- have nothing to be tried. The request waits for a day, as nobody is there who would ask again.
INSERT INTO refresh_requests AS r
    (grant_id, requested_by, resource, scope, requested_at, wanted_until, min_ttl, due_at, rejected_version)
SELECT found.id, :requested_by, '', '', found.at, found.renew_at + interval '1 day', 0, found.renew_at,
    found.access_version
FROM (
    SELECT g.id, g.access_version, clock_timestamp() AS at, greatest(clock_timestamp(),
        CASE WHEN g.obtained_from = 'renewal' THEN g.obtained_at + interval '1 minute' END) AS renew_at
    FROM grants g
    WHERE (g.provider_user_id = :account OR g.id = ANY (CAST(:grant_ids AS bigint[])))
        AND g.connection = ANY (CAST(:connections AS text[])) AND g.user_id <> ''
        AND (CAST(:tenants AS text[]) IS NULL OR g.tenant = ANY (CAST(:tenants AS text[])))
        AND g.state IN ('active', 'in_doubt')
    ORDER BY g.id
) AS found
ON CONFLICT (grant_id, requested_by, resource, scope) DO UPDATE SET
    requested_at = excluded.requested_at,
    wanted_until = excluded.wanted_until,
    due_at = CASE WHEN r.handled_at IS NULL THEN excluded.due_at
        ELSE greatest(excluded.due_at, r.handled_at + interval '1 second') END,
    rejected_version = excluded.rejected_version,
    handled_at = NULL
RETURNING r.grant_id
