"""The published offline methods: queries, sessions, batches and the queue protocol."""
