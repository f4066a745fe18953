"""Whole copies of the model in processes of their own: how they are started, watched and chosen."""
