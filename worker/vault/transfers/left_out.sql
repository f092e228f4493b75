-- Why a grant is of no use to another vault; null where it is. An import refuses what only Auth0 can renew, and what is
-- of a connection that Auth0 does not have.
CASE
    -- Its tokens are to be revoked, as soon as the call that has them has ended.
    WHEN g.reason = 'revoked' OR EXISTS (SELECT FROM revocations r WHERE r.grant_id = g.id AND r.taken_at IS NULL)
        THEN 'revoked'
    WHEN g.state = 'reauthorization_required' THEN g.state
    WHEN g.refresh_ciphertext IS NULL OR g.state = 'unrenewable' THEN 'no_refresh_token'
    WHEN c.problem IN ('development_keys', 'deleted') THEN c.problem
END
