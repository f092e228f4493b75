-- Of several pauses that stop a connection, the one that lasts longest.
SELECT tenant, connection, since, until, reason, paused_by FROM pauses
WHERE tenant IN ('', :tenant) AND connection IN ('', :connection)
ORDER BY until DESC NULLS FIRST LIMIT 1
