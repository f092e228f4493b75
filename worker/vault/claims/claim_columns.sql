    grants.id, tenant, connection, user_id, provider_user_id, state, access_ciphertext, access_version,
    refresh_ciphertext, refresh_version, expires_at, in_doubt_since, attempts, obtained_at, refresh_expires_at,
    last_read_at, renewal_ordered_at IS NOT NULL AS is_ordered, failing_since,
    -- What is older than this column began before Auth0 last showed its user.
    coalesce(consented_at, observed_updated_at, imported_at, grants.created_at) AS consented_at
