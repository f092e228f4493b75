SELECT identity.tenant, identity.connection, identity.user_id, identity.provider_user_id
FROM grants g
JOIN
    \ir ../grants/identities.sql
    USING (provider_user_id, connection, tenant)
WHERE g.user_id <> identity.user_id
