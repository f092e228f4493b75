-- What cannot be renewed at all has a state that says so.
next_renewal_at < now() - interval '1 minute' AND state NOT IN ('unrenewable', 'expired')
