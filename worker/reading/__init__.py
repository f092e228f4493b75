"""What a reader needs besides the row: the token it hands out, asking for a refresh, and being told of its end."""
