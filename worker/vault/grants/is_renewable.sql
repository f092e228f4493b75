-- Calls are made for it. What cannot be renewed, is dead, paused, or blocked by a refused client has a state that says so.
state IN ('active', 'in_doubt')
