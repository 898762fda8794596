"""Around a sweep: simulated before it, extended and confirmed after it."""
