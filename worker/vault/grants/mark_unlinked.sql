UPDATE grants g SET missing_since = :now
-- By a subquery, so that the planner, which counts on few elements, always takes the index of users: by the statistics of
-- a table that has just been filled it would read all of the tenant's.
WHERE g.user_id = ANY (ARRAY(SELECT unnest(CAST(:read_users AS text[]))))
    AND g.tenant = :tenant AND g.missing_since IS NULL AND g.state <> 'erased'
    -- NOT IN is hashed, NOT EXISTS would compare each grant with each identity. None of the three is null.
    AND (g.user_id, g.connection, g.provider_user_id) NOT IN (
        SELECT identity.user_id, identity.connection, identity.provider_user_id FROM
        \ir identities.sql
    )
RETURNING id
