CASE WHEN state IN ('active', 'in_doubt', 'paused') AND expires_at <= now() THEN 'ended' ELSE state END
