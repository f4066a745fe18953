"""The command line: `mossvl ask`, `run`, `frames` and `inspect`."""
