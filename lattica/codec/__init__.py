"""Values as bytes: canonical msgpack."""

from ._canonical import Value as Value, pack as pack, unpack as unpack
