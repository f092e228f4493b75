"""A token vault for the identity providers behind Auth0.

Pulls the providers' tokens from Auth0's Management API, keeps them encrypted in Postgres,
renews each provider in its own way before it expires, and hands fresh ones to other programs.
"""

import gc

# A start makes half a million objects, and next to no garbage: with Python's 700 the collector takes a tenth of it. The
# pages of users and grants that a worker reads are gone by their counts.
gc.set_threshold(20_000, 20, 20)

__version__ = "0.1.0"
