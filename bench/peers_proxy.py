"""Between the packages of bench/peers.py and the server: every reply has the same greatest length, whatever a package asks for.

Of each chat completion `max_tokens` is lowered to the limit, the model's name becomes the served one, and `seed` is set where it is absent,
from the run's seed and the number of the request, so that a run can be repeated. All else passes as it is, streams included.
"""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy(ThreadingHTTPServer):
    """Listens on a free port of the loopback; `url` is where."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream, model, max_tokens, seconds):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.model, self.max_tokens, self.seconds = upstream, model, max_tokens, seconds
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock, self.seed = threading.Lock(), 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def restart_seeds(self, seed):
        """The seed of the next request; later ones count up."""
        with self.lock:
            self.seed = seed

    def next_seed(self):
        """A seed for one request. Requests with `n` above 1 derive those of their choices from it."""
        with self.lock:
            self.seed += 1
            return self.seed

    def bounded(self, body):
        """The body of a chat completion within the limits."""
        body["model"] = self.model
        names = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None] or ["max_tokens"]
        for name in names:
            body[name] = min(body.get(name) or self.max_tokens, self.max_tokens)
        if body.get("seed") is None:
            body["seed"] = self.next_seed()
        return body


class Handler(BaseHTTPRequestHandler):
    """One request, forwarded."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        self.forward(None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.endswith("/chat/completions"):
            body = json.dumps(self.server.bounded(json.loads(body))).encode()
        self.forward(body)

    def forward(self, body):
        host, _, port = self.server.upstream.removeprefix("http://").partition(":")
        upstream = http.client.HTTPConnection(host, int(port), timeout=self.server.seconds)
        try:
            upstream.request(self.command, self.path, body, {"content-type": "application/json"})
            reply = upstream.getresponse()
            self.send_response(reply.status)
            for name in ("content-type", "retry-after"):
                if value := reply.getheader(name):
                    self.send_header(name, value)
            self.end_headers()
            while part := reply.read1(65536):
                self.wfile.write(part)
                self.wfile.flush()
        # The package went away, or the server did; the connection's end says so to the other.
        except OSError:
            pass
        finally:
            upstream.close()
            self.close_connection = True

    def log_message(self, *_):
        """Requests are not logged."""
