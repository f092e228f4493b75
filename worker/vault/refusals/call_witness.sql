-- The next one to be due, so that as little as possible is renewed early.
UPDATE grants SET due_at = :now
WHERE due_at > :now AND claim_owner IS NULL AND id = (
    SELECT id FROM grants
    WHERE tenant = :tenant AND connection = :connection AND due_at IS NOT NULL AND state = 'active'
        AND in_doubt_since IS NULL AND NOT EXISTS (SELECT FROM refusals WHERE grant_id = grants.id)
    ORDER BY due_at
    LIMIT 1
)
