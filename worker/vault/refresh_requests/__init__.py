"""Refresh requests, which readers make through Postgres."""
