"""The proxy: front ends call providers without their tokens."""
