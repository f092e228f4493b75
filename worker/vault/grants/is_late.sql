next_renewal_at < now() - interval '1 minute'
