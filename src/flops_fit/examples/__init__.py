"""Models and data that reach the core only as a user's own code would: by import path."""
