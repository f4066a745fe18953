"""Quantized weights: linear maps of 8 and 4 bits, which maps of a model are quantized, and published formats."""
