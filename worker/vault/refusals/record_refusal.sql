-- A grant that was renewed since, or refused by another client before, begins anew. Answers are counted apart from
-- server errors: what passes for the one says nothing of the other. A request to wait between two answers changes
-- nothing: providers throttle those who show a dead token again and again. A server error long after the refusal before
-- it begins anew: how long a client was refused says nothing of how long the server fails this grant. So does one after
-- a request to wait, and words about the client after server errors: a renewal before them does not acquit it.
INSERT INTO refusals AS before (grant_id, tenant, connection, client, suspicion, code, tries, first_at, last_at)
VALUES (:grant_id, :tenant, :connection, :client, :suspicion, :code, 1, :now, :now)
ON CONFLICT (grant_id) DO UPDATE SET
    client = EXCLUDED.client,
    suspicion = EXCLUDED.suspicion,
    code = EXCLUDED.code,
    tries = CASE WHEN :begins_anew OR before.client <> EXCLUDED.client
            OR (before.suspicion IN ('outage', 'throttled') AND EXCLUDED.suspicion NOT IN ('outage', 'throttled'))
        THEN 1 ELSE before.tries + 1 END,
    first_at = CASE WHEN :begins_anew OR before.client <> EXCLUDED.client
            OR (EXCLUDED.suspicion = 'outage' AND before.last_at < EXCLUDED.last_at - make_interval(secs => :gap))
            OR (EXCLUDED.suspicion = 'outage' AND before.suspicion = 'throttled')
            OR (EXCLUDED.suspicion = 'client' AND before.suspicion IN ('outage', 'throttled'))
        THEN EXCLUDED.first_at ELSE least(before.first_at, EXCLUDED.first_at) END,
    last_at = CASE WHEN :begins_anew OR before.client <> EXCLUDED.client
        THEN EXCLUDED.last_at ELSE greatest(before.last_at, EXCLUDED.last_at) END
WHERE NOT (EXCLUDED.suspicion = 'throttled' AND before.suspicion NOT IN ('outage', 'throttled')
    AND before.client = EXCLUDED.client AND NOT :begins_anew)
