"""The typed client of a Fust server, used by the command line and the tests."""

from fust.client.client import Client
from fust.client.http import ClientError

__all__ = ["Client", "ClientError"]
