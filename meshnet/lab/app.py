"""A plain HTTP server, and a client for it.

Nothing but the standard library and no import of meshnet: a pod's user cannot always read the
checkout, so this text is handed to a Python on its standard input.

    python3 -I - serve NAME PORT         prints "listening" once it does
    python3 -I - get URL SECONDS         tries again for that long; prints JSON: status, body, ms
"""

from __future__ import annotations

import http.server
import json
import sys
import time
import urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with its own name and with the address that the connection came from."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or head and body, two writes, take 40 ms
    app_name = ""

    def do_GET(self) -> None:
        body = json.dumps({"app": self.app_name, "saw": self.client_address[0]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(name: str, port: int) -> None:
    """Serve on every IPv4 address until killed."""
    Handler.app_name = name
    http.server.ThreadingHTTPServer.daemon_threads = True
    with http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler) as server:
        print("listening", flush=True)
        server.serve_forever()


def get(url: str, seconds: float) -> None:
    """Fetch ``url``, past any proxy setting; tries for ``seconds`` and at least once."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    while True:
        start = time.monotonic()
        try:
            with opener.open(url, timeout=5) as answer:
                body = answer.read().decode()
                break
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{url}: {error}")
            time.sleep(0.02)
    took = (time.monotonic() - start) * 1000
    print(json.dumps({"status": answer.status, "body": body, "ms": took}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        get(sys.argv[2], float(sys.argv[3]))
