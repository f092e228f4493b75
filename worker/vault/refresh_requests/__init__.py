"""Refresh requests: what readers ask for through Postgres, and who carries it out."""
