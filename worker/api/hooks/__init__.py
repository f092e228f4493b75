"""Hooks: routes by which others tell that something has changed."""
