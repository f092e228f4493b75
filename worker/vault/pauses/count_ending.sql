-- Tokens of a scope that end by each of these times, where nothing renews them.
SELECT by_time, count(g.id) FILTER (WHERE g.expires_at > :now AND g.expires_at <= by_time) AS access_tokens,
    count(g.id) FILTER (WHERE least(g.refresh_expires_at, g.consent_expires_at) > :now
        AND least(g.refresh_expires_at, g.consent_expires_at) <= by_time) AS refresh_tokens
FROM unnest(CAST(:times AS timestamptz[])) AS by_time
LEFT JOIN grants g ON g.state IN ('active', 'in_doubt') AND (:tenant = '' OR g.tenant = :tenant)
    AND (:connection = '' OR g.connection = :connection)
GROUP BY by_time ORDER BY by_time
