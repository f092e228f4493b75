-- A grant's connection gets a row even if Auth0 has not shown the connection itself. All in one order: two syncs of the
-- same new grants wait for each other, and never in a circle.
WITH new AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new(
        strategy text, tenant text, connection text, user_id text, provider_user_id text, state text, reason text,
        access_ciphertext text, access_version bigint, refresh_ciphertext text, refresh_version bigint, expires_at timestamptz,
        refresh_expires_at timestamptz, scopes text[], extra_ciphertext text, obtained_at timestamptz, obtained_from text, observed_access text,
        observed_refresh text, observed_updated_at timestamptz, user_created_at timestamptz, due_at timestamptz, consented_at timestamptz)
), stubs AS (
    INSERT INTO connections (tenant, name, strategy, problem, problem_message)
    SELECT DISTINCT ON (tenant, connection) tenant, connection, strategy, 'not_shown',
        'Auth0 has shown users of connection ' || connection || ' but not the connection itself: its client '
            'credentials are unknown. Run `token-vault sync`.'
    FROM new ORDER BY tenant, connection
    ON CONFLICT DO NOTHING
)
INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, reason, access_ciphertext, access_version,
    refresh_ciphertext, refresh_version, expires_at, refresh_expires_at, scopes, extra_ciphertext, obtained_at, obtained_from,
    observed_access, observed_refresh, observed_updated_at, user_created_at, due_at, consented_at)
SELECT tenant, connection, user_id, provider_user_id, state, reason, convert_to(access_ciphertext, 'UTF8'), access_version,
    convert_to(refresh_ciphertext, 'UTF8'), refresh_version, expires_at, refresh_expires_at, scopes, convert_to(extra_ciphertext, 'UTF8'),
    obtained_at, obtained_from, decode(observed_access, 'hex'), decode(observed_refresh, 'hex'), observed_updated_at, user_created_at, due_at,
    consented_at
FROM new ORDER BY user_id, connection, tenant, provider_user_id
ON CONFLICT DO NOTHING
RETURNING tenant, connection, user_id, provider_user_id
