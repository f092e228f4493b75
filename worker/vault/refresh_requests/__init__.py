"""Refresh requests: what readers ask for through Postgres."""
