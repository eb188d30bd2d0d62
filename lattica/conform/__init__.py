"""Does a node do what the specification says? Its vectors, and black-box checks from outside."""

from ._run import run as run
