-- The roles that the services log in as; what they may do is given to vault_worker by `token-vault migrate`.
-- The owner runs this, as often as wanted: psql --variable=secrets=FOLDER --file=roles.sql
-- It needs no superuser: one that may make roles (CREATEROLE) is enough, as a Postgres of somebody else's gives.
\set ON_ERROR_STOP on
\set worker_password `cat :'secrets'/postgres_worker_password`
\set api_password `cat :'secrets'/postgres_api_password`
-- A statement that fails is in the server's log; only a superuser may keep it out.
SELECT 'SET log_min_error_statement = panic' FROM pg_roles WHERE rolname = current_user AND rolsuper \gexec

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['token_vault_worker', 'token_vault_api']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

-- A new role has none of these, and whoever is no superuser may not even say so.
SELECT format('ALTER ROLE %I NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', name)
FROM unnest(ARRAY['token_vault_worker', 'token_vault_api']) AS name, pg_roles
WHERE rolname = current_user AND rolsuper \gexec

-- No limit for workers: twenty connections each, however many there are.
ALTER ROLE token_vault_worker LOGIN;
ALTER ROLE token_vault_api LOGIN CONNECTION LIMIT 60;
GRANT vault_worker TO token_vault_worker;
-- The API writes records of reads for its callers, which a reader's role cannot.
GRANT vault_worker TO token_vault_api;
ALTER ROLE token_vault_api SET statement_timeout = '30s';
ALTER ROLE token_vault_api SET lock_timeout = '5s';
ALTER ROLE token_vault_api SET idle_in_transaction_session_timeout = '1min';
-- The passwords come last: who may not alter these roles was refused before, by a statement without one.
ALTER ROLE token_vault_worker PASSWORD :'worker_password';
ALTER ROLE token_vault_api PASSWORD :'api_password';
