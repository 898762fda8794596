"""A user's own code: found and called, and known by its source and its files."""
