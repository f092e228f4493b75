    grants.id, tenant, connection, user_id, provider_user_id, state, access_ciphertext, access_version,
    refresh_ciphertext, refresh_version, expires_at, in_doubt_since, attempts, obtained_at, refresh_expires_at,
    last_read_at, renewal_ordered_at IS NOT NULL AS is_ordered, failing_since
