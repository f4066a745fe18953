"""The engine: many requests at once, continuous batching over paged caches, with reuse of what was computed before."""
