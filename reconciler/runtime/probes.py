"""Health checks over HTTP, as Kubernetes probes ask for them."""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler

from reconciler.runtime.metrics import HttpServer, Listen

Check = Callable[[], str]
"""What is not well, in words; empty if all is."""


class Probes:
    """Answers each path with 200 while its check finds nothing, else with 503 and what was found.

    Raises OSError if the port can't be had. Checks are called from other threads.
    """

    def __init__(self, listen: Listen, checks: Mapping[str, Check]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Answer a probe."""
                check = checks.get(self.path.partition("?")[0])
                found = check() if check else f"not known here: try {', '.join(checks)}"
                body = f"{found or 'ok'}\n".encode()
                self.send_response(404 if check is None else 503 if found else 200)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come all the time: not worth a line."""

        self._server = HttpServer(listen, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="probes", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port served, also where any free one was asked for."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
