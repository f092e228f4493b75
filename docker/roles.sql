-- The roles that the services log in as; what they may do is given to vault_worker by `token-vault migrate`.
-- The owner runs this, as often as wanted: psql --variable=secrets=FOLDER --file=roles.sql
\set ON_ERROR_STOP on
\set worker_password `cat :'secrets'/postgres_worker_password`
\set api_password `cat :'secrets'/postgres_api_password`
-- A statement that fails would be in the server's log, with its password.
SET log_min_error_statement = panic;

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['token_vault_worker', 'token_vault_api']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

-- No limit for workers: twenty connections each, however many there are.
ALTER ROLE token_vault_worker LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'worker_password';
ALTER ROLE token_vault_api LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 60
    PASSWORD :'api_password';
GRANT vault_worker TO token_vault_worker;
-- The API writes records of reads for its callers, which a reader's role cannot.
GRANT vault_worker TO token_vault_api;
ALTER ROLE token_vault_api SET statement_timeout = '30s';
ALTER ROLE token_vault_api SET lock_timeout = '5s';
ALTER ROLE token_vault_api SET idle_in_transaction_session_timeout = '1min';
