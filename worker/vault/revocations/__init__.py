"""The tokens that an operator wants revoked: out of the grants, until their provider has ended them."""
