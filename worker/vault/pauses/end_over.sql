-- SKIP LOCKED: of several workers one ends a pause, and spreads out what has become due.
DELETE FROM pauses WHERE (tenant, connection) IN (
    SELECT tenant, connection FROM pauses WHERE until <= :now FOR UPDATE SKIP LOCKED
)
RETURNING tenant, connection, since, until, reason, paused_by
