DELETE FROM pauses
WHERE (:tenant = '' OR tenant = :tenant) AND (:connection = '' OR connection = :connection)
RETURNING tenant, connection, since, until, reason, paused_by
