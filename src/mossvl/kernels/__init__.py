"""Triton kernels for inference, one module for each kind. Importing this package does not import Triton."""
