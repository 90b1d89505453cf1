"""Answers with bytes that follow from the request's nonce, or with the digest of the request's body."""
import hashlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def stuff(nonce, size):
    seed = hashlib.sha256(nonce.encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def head(self, nonce, *fields):
        self.send_response(200)
        self.send_header("X-Nonce", nonce)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        _, way, size, nonce = self.path.split("/")
        body = stuff(nonce, int(size))
        if way == "bytes":
            self.head(nonce, ("Content-Length", str(len(body))))
            self.wfile.write(body)
        elif way == "chunked":
            self.head(nonce, ("Transfer-Encoding", "chunked"))
            for at in range(0, len(body), 5000):
                part = body[at : at + 5000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        elif way == "until-close":
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Nonce: %s\r\nConnection: close\r\n\r\n" % nonce.encode())
            self.wfile.write(body)
        elif way == "die":
            self.close_connection = True
            self.head(nonce, ("Content-Length", str(len(body))))
            self.wfile.write(body[: len(body) // 2])
        elif way == "split":
            # A head in several pieces, and a body in many.
            self.close_connection = False
            text = b"HTTP/1.1 200 OK\r\nX-Nonce: %s\r\nContent-Length: %d\r\n\r\n" % (nonce.encode(), len(body))
            text += body
            for at in range(0, len(text), max(1, len(text) // 7)):
                self.wfile.write(text[at : at + max(1, len(text) // 7)])
                self.wfile.flush()

    def do_POST(self):
        _, _, _, nonce = self.path.split("/")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = hashlib.sha256(body).hexdigest().encode()
        self.head(nonce, ("Content-Length", str(len(answer))))
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
