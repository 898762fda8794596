"""Example models and data, which the core reaches by import path, as it does a user's code."""
