-- Identities as parameters, with the times of their users where these are given.
    unnest(
        CAST(:tenants AS text[]), CAST(:connections AS text[]), CAST(:user_ids AS text[]),
        CAST(:provider_user_ids AS text[]), CAST(:updated_at AS timestamptz[]), CAST(:created_at AS timestamptz[])
    ) AS identity(tenant, connection, user_id, provider_user_id, updated_at, created_at)
