"""Which version this is, as its package says."""

from importlib import metadata

try:
    __version__ = metadata.version("lattica-mesh")
except metadata.PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0"
