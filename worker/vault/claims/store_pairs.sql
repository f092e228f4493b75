-- Commits answers that are there together, each under its own compare-and-swap: only where the claim still holds, on the
-- very tokens that it was made on. All else is decided one by one, by store_pair.sql, and so is a row that another
-- transaction has locked: a statement that never waits while it holds locks is part of no deadlock, and one grant's lock
-- delays no other's answer.
WITH answers AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(CAST(:answers AS jsonb)) AS answers(
        n integer, id bigint, user_id text, owner uuid, access_version bigint, refresh_version bigint,
        access_ciphertext text, refresh_ciphertext text, extra_ciphertext text, expires_at timestamptz,
        refresh_expires_at timestamptz, consent_expires_at timestamptz, counted_consent_end timestamptz, scopes text[], obtained_at timestamptz,
        due_at timestamptz)
), unlocked AS (
    SELECT id, awaited FROM grants WHERE id IN (SELECT id FROM answers) FOR UPDATE SKIP LOCKED
)
UPDATE grants g SET
    refresh_ciphertext = coalesce(convert_to(a.refresh_ciphertext, 'UTF8'), g.refresh_ciphertext),
    refresh_version = g.refresh_version + CAST(a.refresh_ciphertext IS NOT NULL AS integer),
    refresh_expires_at = coalesce(a.refresh_expires_at, CASE WHEN a.refresh_ciphertext IS NULL THEN g.refresh_expires_at END),
    consent_expires_at = coalesce(a.consent_expires_at,
        CASE WHEN g.consent_is_counted THEN a.counted_consent_end END, g.consent_expires_at),
    consent_is_counted = g.consent_is_counted AND a.consent_expires_at IS NULL,
    access_ciphertext = convert_to(a.access_ciphertext, 'UTF8'), access_version = g.access_version + 1,
    extra_ciphertext = coalesce(convert_to(a.extra_ciphertext, 'UTF8'), g.extra_ciphertext),
    expires_at = a.expires_at, obtained_at = a.obtained_at, obtained_from = 'renewal', scopes = coalesce(a.scopes, g.scopes),
    due_at = a.due_at, state = 'active', reason = NULL, reason_since = NULL, in_doubt_since = NULL, attempts = 0,
    last_error = NULL, last_renewed_at = a.obtained_at, renewal_ordered_at = NULL,
    claim_owner = NULL, claimed_at = NULL, claim_until = NULL, awaited = false
FROM answers a JOIN unlocked USING (id)
WHERE g.id = a.id AND g.user_id = a.user_id AND g.state <> 'erased' AND g.claim_owner = a.owner
    AND g.refresh_version = a.refresh_version AND g.access_version = a.access_version
RETURNING a.n, g.id, unlocked.awaited
