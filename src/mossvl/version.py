"""The version of this package: that of the tag, or of the commit after it, from which it was built."""

from importlib import metadata

try:
    __version__ = metadata.version("mossvl")
except metadata.PackageNotFoundError:  # The package runs from its sources, not installed.
    __version__ = "0.0"
