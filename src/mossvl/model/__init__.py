"""The model: configuration, layers, vision tower, and the Hugging Face classes around them."""
