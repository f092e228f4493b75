"""Tokens to be revoked, kept until their provider ends them."""
