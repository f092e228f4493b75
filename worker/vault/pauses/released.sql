-- The connections of a scope that no other pause stops.
SELECT c.tenant, c.name FROM connections c
WHERE (:tenant = '' OR c.tenant = :tenant) AND (:connection = '' OR c.name = :connection)
    AND NOT EXISTS (SELECT FROM pauses p WHERE p.tenant IN ('', c.tenant) AND p.connection IN ('', c.name))
ORDER BY c.tenant, c.name
