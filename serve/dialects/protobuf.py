"""Former name of serve.protocols.oip.protobuf."""

from serve.protocols.oip.protobuf import add_to_server

__all__ = ["add_to_server"]
