UPDATE grants SET
    state = 'erased', reason = :reason, reason_since = :now, user_id = :name, provider_user_id = :name,
    access_ciphertext = NULL, refresh_ciphertext = NULL, expires_at = NULL, refresh_expires_at = NULL, scopes = NULL,
    consent_expires_at = NULL, consented_at = NULL, consent_is_counted = true, extra_ciphertext = NULL,
    obtained_at = NULL, user_created_at = NULL, missing_since = NULL, withdrawn_at = NULL, due_at = NULL, claim_owner = NULL,
    claimed_at = NULL, claim_until = NULL, awaited = false, in_doubt_since = NULL, attempts = 0, last_error = NULL,
    last_renewed_at = NULL, renewal_ordered_at = NULL,
    last_read_at = NULL, forced_at = NULL, failing_since = NULL
WHERE id = :id
