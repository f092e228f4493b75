-- A grant that can be renewed and was not refused since the client's last renewal.
SELECT EXISTS (
    SELECT FROM grants
    WHERE tenant = :tenant AND connection = :connection AND due_at IS NOT NULL AND state IN ('active', 'in_doubt')
        AND NOT EXISTS (
            SELECT FROM refusals
            WHERE grant_id = grants.id AND client = :client
                AND last_at > coalesce(CAST(:renewed_at AS timestamptz), '-infinity')
        )
)
