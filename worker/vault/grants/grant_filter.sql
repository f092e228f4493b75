    tenant = ANY(:tenants)
    AND (CAST(:grant_id AS bigint) IS NULL OR id = :grant_id)
    AND (CAST(:user_id AS text) IS NULL OR id IN (SELECT id FROM grants WHERE user_id = :user_id))
    AND (NOT CAST(:is_served AS boolean) OR id NOT IN (
        SELECT id FROM grants WHERE missing_since IS NOT NULL AND withdrawn_at IS NOT NULL))
    AND (CAST(:connection AS text) IS NULL OR connection = :connection)
    AND (CAST(:provider AS text) IS NULL OR provider = :provider)
    AND (CAST(:expires_before AS timestamptz) IS NULL OR expires_at < :expires_before)
    AND (CAST(:state AS text) IS NULL OR :state =
\ir counted_state.sql
    )
