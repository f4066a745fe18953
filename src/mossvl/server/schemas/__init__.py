"""Schemas of requests, in the formats of public APIs with extensions."""
