"""A token vault for the identity providers behind Auth0.

Pulls the providers' tokens from Auth0's Management API, keeps them encrypted in Postgres,
renews each provider in its own way before it expires, and hands fresh ones to other programs.
"""

import gc

# A start creates half a million objects and hardly any garbage: with Python's default threshold of 700, collection takes
# a tenth of the time. The pages of users and grants that a worker reads are freed by reference counts.
gc.set_threshold(20_000, 20, 20)

__version__ = "0.1.0"
