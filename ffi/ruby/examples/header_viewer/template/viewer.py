"""Answers every request with its own headers. Needs nothing but Python 3."""
import html
import http.server
import sys


class Viewer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self.headers.items()
        )
        page = (
            "<!DOCTYPE html><html lang=en><meta charset=utf-8><title>Headers</title>"
            f"<h1>{html.escape(self.command)} {html.escape(self.path)}</h1>"
            f"<table>{rows}</table>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Viewer).serve_forever()
