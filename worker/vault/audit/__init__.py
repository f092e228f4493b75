"""The audit: who read what; records never change."""
