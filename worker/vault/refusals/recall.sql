-- What stood in their way is over: refused grants are tried soon, whatever pause they had come to.
UPDATE grants SET due_at = :now + make_interval(secs => random() * :within)
FROM refusals
WHERE refusals.tenant = :tenant AND refusals.connection = :connection AND grants.id = grant_id
    AND claim_owner IS NULL
    -- What is in doubt waits as long as there is a token to serve.
    AND (state = 'active' AND in_doubt_since IS NULL OR state IN ('active', 'in_doubt') AND expires_at <= :now)
    AND due_at > :now + make_interval(secs => :within)
