SELECT current_setting('server_version_num')::integer / 10000, current_setting('server_encoding'), (
    SELECT relnamespace::regnamespace::text FROM pg_catalog.pg_class
    WHERE relname = 'vault_secrets' AND relkind = 'r' AND to_regclass('vault_secrets') IS NULL
    ORDER BY oid LIMIT 1
), current_schema() IS NULL
