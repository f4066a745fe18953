"""Fine-tuning: examples with labels, packed batches, and the training loop."""
