-- A scope that is paused already keeps its beginning.
INSERT INTO pauses (tenant, connection, since, until, reason, paused_by)
VALUES (:tenant, :connection, :now, :until, :reason, :by)
ON CONFLICT (tenant, connection) DO UPDATE
SET until = excluded.until, reason = excluded.reason, paused_by = excluded.paused_by
