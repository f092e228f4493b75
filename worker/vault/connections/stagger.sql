-- What waited behind a circuit becomes due in the order in which its tokens end, slowly at first. A token that still
-- lives is not put off beyond its end.
WITH waiting AS (
    SELECT id FROM grants WHERE tenant = :tenant AND connection = :name AND due_at <= :now AND claim_owner IS NULL
    FOR UPDATE SKIP LOCKED
), counted AS (
    SELECT grants.id, expires_at,
        greatest(row_number() OVER (ORDER BY expires_at NULLS FIRST, grants.id) - :burst, 0) AS behind,
        greatest(:rate, count(*) OVER () / :at_most) AS rate
    FROM grants JOIN waiting ON waiting.id = grants.id
)
UPDATE grants SET due_at = least(
    :now + make_interval(secs => :doubling * log(2.0, 1 + counted.behind / :burst) + counted.behind / counted.rate),
    CASE WHEN counted.expires_at > :now THEN greatest(:now, counted.expires_at - interval '1 minute') END)
FROM counted WHERE grants.id = counted.id AND counted.behind > 0
