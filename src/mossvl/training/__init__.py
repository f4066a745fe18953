"""Fine-tuning: examples, what of them is learned, and the loop."""
