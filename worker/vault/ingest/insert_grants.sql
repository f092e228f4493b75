-- A grant's connection gets a row even if Auth0 has not shown the connection itself. All in one order, by what is unique:
-- two syncs of the same new identities wait for each other, and never in a circle.
WITH new AS (
    SELECT * FROM unnest(
        CAST(:strategy AS text[]), CAST(:tenant AS text[]), CAST(:connection AS text[]), CAST(:user_id AS text[]),
        CAST(:provider_user_id AS text[]), CAST(:state AS text[]), CAST(:reason AS text[]), CAST(:access_ciphertext AS text[]),
        CAST(:access_version AS bigint[]), CAST(:refresh_ciphertext AS text[]), CAST(:refresh_version AS bigint[]),
        CAST(:expires_at AS timestamptz[]), CAST(:refresh_expires_at AS timestamptz[]), CAST(:scopes AS text[]),
        CAST(:extra_ciphertext AS text[]), CAST(:obtained_at AS timestamptz[]), CAST(:obtained_from AS text[]),
        CAST(:observed_access AS bytea[]), CAST(:observed_refresh AS bytea[]), CAST(:observed_updated_at AS timestamptz[]),
        CAST(:user_created_at AS timestamptz[]), CAST(:due_at AS timestamptz[]), CAST(:consented_at AS timestamptz[])
    ) AS new(
        strategy, tenant, connection, user_id, provider_user_id, state, reason, access_ciphertext, access_version,
        refresh_ciphertext, refresh_version, expires_at, refresh_expires_at, scopes, extra_ciphertext, obtained_at,
        obtained_from, observed_access, observed_refresh, observed_updated_at, user_created_at, due_at, consented_at)
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
    convert_to(refresh_ciphertext, 'UTF8'), refresh_version, expires_at, refresh_expires_at, CAST(scopes AS text[]), convert_to(extra_ciphertext, 'UTF8'),
    obtained_at, obtained_from, observed_access, observed_refresh, observed_updated_at, user_created_at, due_at,
    consented_at
FROM new ORDER BY provider_user_id, connection, tenant
ON CONFLICT DO NOTHING
RETURNING tenant, connection, user_id, provider_user_id
