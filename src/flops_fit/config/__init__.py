"""A sweep's config: read, completed, checked."""
