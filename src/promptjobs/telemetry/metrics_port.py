"""The metrics of a process without an API: a port of its own, served by a thread."""

from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from promptjobs.telemetry.metrics import REGISTRY


class MetricsPort:
    """Answers every GET with this process's metrics, without any key, until `close`. port: 0 for any that is free.

    Raises OSError where it cannot listen.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server: WSGIServer
        self._thread: Thread
        self._server, self._thread = start_http_server(port, host, REGISTRY)

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop listening; takes up to half a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
