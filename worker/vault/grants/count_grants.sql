SELECT count(*) FROM token_status
WHERE
\ir grant_filter.sql
