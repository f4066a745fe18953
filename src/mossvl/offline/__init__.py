"""Questions in, answers out: queries, sessions, batches, and the published offline methods."""
