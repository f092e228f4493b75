-- A batch takes seconds: what was due less than a minute ago is on time.
next_renewal_at < now() - interval '1 minute' AND
\ir is_renewable.sql
