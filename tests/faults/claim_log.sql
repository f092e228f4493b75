-- The suite's own log of grants, written as each transaction commits: what the rows said, whatever the workers say.
CREATE TABLE claim_log (
    n bigserial PRIMARY KEY, at float8, clock float8, connection text, provider_user_id text, user_id text, tenant text,
    old_owner uuid, owner uuid, old_until float8, seconds float8, old_state text, state text, reason text,
    old_version bigint, version bigint, refresh_ciphertext bytea
);
CREATE FUNCTION log_claims() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.claim_log (
        at, clock, connection, provider_user_id, user_id, tenant, old_owner, owner, old_until, seconds, old_state, state,
        reason, old_version, version, refresh_ciphertext
    ) VALUES (
        extract(epoch FROM pg_catalog.clock_timestamp()), extract(epoch FROM public.clock_timestamp()),
        NEW.connection, NEW.provider_user_id, NEW.user_id, NEW.tenant, OLD.claim_owner, NEW.claim_owner,
        extract(epoch FROM OLD.claim_until), extract(epoch FROM NEW.claim_until - NEW.claimed_at), OLD.state, NEW.state, NEW.reason,
        OLD.refresh_version, NEW.refresh_version, NEW.refresh_ciphertext
    );
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER log_claims AFTER UPDATE ON grants DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.claim_owner IS DISTINCT FROM NEW.claim_owner OR OLD.state IS DISTINCT FROM NEW.state
        OR OLD.refresh_version IS DISTINCT FROM NEW.refresh_version)
    EXECUTE FUNCTION log_claims();
