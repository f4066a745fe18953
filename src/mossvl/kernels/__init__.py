"""Triton kernels of the inference engine, one module for each kind. Importing this package does not import Triton."""
