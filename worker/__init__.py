"""A token vault for the identity providers behind Auth0.

Pulls the providers' tokens from Auth0's Management API, keeps them encrypted in Postgres,
renews each provider in its own way before it expires, and hands fresh ones to other programs.
"""

__version__ = "0.1.0"
