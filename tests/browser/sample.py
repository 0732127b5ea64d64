"""An app as users have them: a page with assets, a WebSocket, files.

The app of the demo with other pages; it takes what that one takes, after the
directory of its files. It answers both URL forms: asked for its whole path it
links absolutely, otherwise relatively. Each request is told on standard error.

    sample.py FILES --listen ADDR:PORT --certs DIR [--ready-fd FD]
"""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "demo"))
import app as demo  # noqa: E402

KINDS = {
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# Whatever would reach the dashboard, and what would not.
COOKIES = [
    "plain=1",
    "root=1; Path=/",
    "pun=1; Path=/pun",
    "dashboard=1; Path=/pun/sys/dashboard",
    "domain=1; Path=/; Domain=portal.localhost",
    "hidden=1; Path=/; HttpOnly",
]


class Handler(demo.Handler):
    def parse_request(self):
        parsed = super().parse_request()
        if parsed:
            seen = {"method": self.command, "target": self.path, "headers": self.headers.items()}
            print("seen: " + json.dumps(seen), file=sys.stderr, flush=True)
        return parsed

    def place(self):
        """The base for links, and what is asked for below it."""
        path = self.path.split("?")[0]
        base, rest = re.fullmatch(r"(/pun/proxy/[^/]+/[0-9]+/|/)(.*)", path).groups()
        return ("" if base == "/" else base), rest

    def answer_with(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        base, place = self.place()
        if place == "echo":
            self.echo()
        elif place == "data.json":
            self.answer(200, "application/json", b'{"answer": 42}')
        elif place == "cookies":
            self.answer_with(200, [("Set-Cookie", cookie) for cookie in COOKIES])
        elif place == "redirect":
            self.answer_with(302, [("Location", (base or "/") + "?redirected")])
        elif place == "download":
            body = (self.server.files / "offered").read_bytes()
            kind = ("Content-Type", "application/octet-stream")
            self.answer_with(200, [kind, ("Content-Disposition", 'attachment; filename="saved"')], body)
        else:
            self.static(base, place or "index.html")

    def static(self, base, place):
        file = HERE / "app" / place.rsplit("/", 1)[-1]
        if not file.is_file():
            self.answer(404, "text/plain", b"there is nothing of that name here\n")
            return
        body = file.read_bytes().replace(b"{{base}}", base.encode())
        # It asks for more than it may have.
        headers = [("Content-Type", KINDS[file.suffix]), ("Service-Worker-Allowed", "/")]
        self.answer_with(200, headers, body)

    def do_POST(self):
        with open(self.server.files / "uploaded", "wb") as file:
            for chunk in self.chunks():
                file.write(chunk)
            size = file.tell()
        self.answer(200, "text/plain", f"{size} bytes".encode())


demo.Handler = Handler
demo.Server.files = pathlib.Path(sys.argv.pop(1))
demo.main()
