"""The identity providers: what each does with a token, and the endpoints that do it."""
