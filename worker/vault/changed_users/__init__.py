"""Changed users: users named by Auth0's hooks, until synced."""
