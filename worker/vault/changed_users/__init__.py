"""Changed users: whom Auth0's hooks name, until they are synced."""
