"""The audit: who has read what; records never change."""
