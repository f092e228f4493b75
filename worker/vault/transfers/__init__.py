"""Grants imported from another store, or exported to one."""
