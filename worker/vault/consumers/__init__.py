"""The table of consumers: who may read what."""
