"""The tenant's `/oauth/token` and Management API.

Only what a sync of users and connections reads.
"""
