"""The HTTP API: tokens for services in any language."""
