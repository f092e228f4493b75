UPDATE grants g SET missing_since = :now
WHERE g.user_id = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST(:read_users AS jsonb))))
    AND g.tenant = :tenant AND g.missing_since IS NULL AND g.state <> 'erased'
    AND NOT EXISTS (
        SELECT FROM
        \ir identities.sql
        WHERE identity.user_id = g.user_id AND identity.connection = g.connection
            AND identity.provider_user_id = g.provider_user_id)
RETURNING id
