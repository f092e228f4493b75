"""The tenant: `/oauth/token` and the part of the Management API that the vault reads."""
