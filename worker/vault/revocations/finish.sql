-- A token that is proven dead is kept no longer; any other stays, encrypted, for another try.
UPDATE revocations SET
    outcome = :outcome, code = :code, finished_at = :now, claimed_until = NULL, attempts = attempts + 1,
    access_ciphertext = CASE WHEN :outcome = 'not_revoked' THEN access_ciphertext END,
    refresh_ciphertext = CASE WHEN :outcome = 'not_revoked' THEN refresh_ciphertext END
WHERE id = :id
