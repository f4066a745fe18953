"""Data files: records, and the queries or examples made of them."""
