"""Benchmarks of the engine, for `mossvl bench`."""
