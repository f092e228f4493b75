"""The identity providers: their tokens and endpoints."""
