-- Identities, with the times of their users where these are given: a shorter array is filled up with nulls.
    unnest(CAST(:tenants AS text[]), CAST(:connections AS text[]), CAST(:users AS text[]), CAST(:identities AS text[]),
        CAST(:updated AS timestamptz[]), CAST(:created AS timestamptz[]))
        AS identity(tenant, connection, user_id, provider_user_id, updated_at, created_at)
