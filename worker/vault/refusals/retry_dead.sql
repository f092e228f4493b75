-- The newest deaths first: their users are the most likely to be waiting.
UPDATE grants SET due_at = :now + make_interval(secs => dead.place / greatest(:rate, dead.total / :within))
FROM (
    SELECT id, row_number() OVER (ORDER BY reason_since DESC, id) AS place, count(*) OVER () AS total
    FROM grants
    WHERE tenant = :tenant AND connection = :connection AND state = 'reauthorization_required'
        AND refused_client IS DISTINCT FROM CAST(:client AS bytea) AND claim_owner IS NULL
        AND (refresh_ciphertext IS NOT NULL OR access_ciphertext IS NOT NULL)
) dead
WHERE grants.id = dead.id
