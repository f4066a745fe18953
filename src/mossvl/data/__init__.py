"""Data files: their lines, and the queries or examples that are on them."""
