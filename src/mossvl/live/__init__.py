"""Live sessions: a request that watches while it speaks."""
