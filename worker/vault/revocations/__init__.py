"""Tokens to be revoked, kept until their provider revokes them."""
