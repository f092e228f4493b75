"""The audit: who has read what. Records are appended, and never changed."""
