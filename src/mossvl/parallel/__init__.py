"""Tensor parallelism: the processes of a model's ranks, and what they exchange."""
