"""MOSS-VL: an open vision-language model for images and long videos."""

__version__ = "0.1.0"
