"""The one thing of a kubelet that the API server asks for: logs of containers, over TLS."""

from __future__ import annotations

import http.server
import ssl
import threading
import urllib.parse
from pathlib import Path

from control_plane import write_certificate
from ports import free_port


class LogServer:
    """Serves what was put into ``logs``, by namespace and pod."""

    def __init__(self, folder: Path) -> None:
        self.logs: dict[tuple[str, str], list[str]] = {}
        self.port = free_port()
        write_certificate(folder / "kubelet.crt", folder / "kubelet.key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "kubelet.crt", folder / "kubelet.key")
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        logs = self.logs

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # /containerLogs/<namespace>/<pod>/<container>
                url = urllib.parse.urlparse(self.path)
                query = urllib.parse.parse_qs(url.query)
                _, _, namespace, pod, _ = url.path.split("/")
                lines = logs.get((namespace, pod), [])[-int(query.get("tailLines", ["1000"])[0]) :]
                body = "".join(f"{line}\n" for line in lines).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
