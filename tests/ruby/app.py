"""An app that knows nothing of TLS. Tells what reaches it and what it can reach."""
import http.server
import json
import os
import socket
import sys
import urllib.parse


def connects(address):
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=2) as connection:
            return connection.recv(100).decode() or "connected"
    except OSError as error:
        return "no: %s" % type(error).__name__


def processes():
    numbers = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    names = []
    for number in numbers:
        try:
            with open("/proc/%d/cmdline" % number) as file:
                names.append(file.read().replace("\0", " ").strip()[:60])
        except OSError:
            pass
    return names


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        if url.path == "/exit":
            os._exit(int(query["code"][0]))
        answer = {
            # As the bytes came.
            "headers": [[k, v.encode("latin-1").hex()] for k, v in self.headers._headers],
            "path": self.path,
            "uid": os.getuid(),
            "capabilities": [
                line.split()[1]
                for line in open("/proc/self/status")
                if line.startswith("Cap") and not line.startswith("CapBnd")
            ],
            "reaches": {to: connects(to) for to in query.get("connect", [])},
            "processes": processes(),
            "environment": sorted(os.environ),
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
