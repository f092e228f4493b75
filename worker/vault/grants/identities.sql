-- Identities as one parameter, with the times of their users where these are given. Arrays cost more to send.
    jsonb_to_recordset(CAST(:identities AS jsonb)) AS identity(
        tenant text, connection text, user_id text, provider_user_id text, updated_at timestamptz, created_at timestamptz)
