"""Grants that come from another store, or go to one."""
