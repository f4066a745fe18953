"""Measurements of the engine: what `mossvl bench` runs and reports."""
