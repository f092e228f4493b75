"""Moves grants into the vault, or out of it."""
