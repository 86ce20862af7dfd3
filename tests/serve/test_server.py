"""For protocols/oip/test_grpc.py, which imports these from here."""

from tests.serve.servers import Server, server

__all__ = ["Server", "server"]
