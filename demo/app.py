#!/usr/bin/env python3
"""The app of the demo: a web page that shows what an app in a job sees.

Run by `ood-job run --client-cert-headers` it is a plain web server where that
tells it to listen. With --certs it is its own TLS end: it answers only to client
certificates signed by the trust bundle. Standard library only.

    app.py [--listen ADDR:PORT | --listen unix:PATH]
    app.py --listen 127.0.0.2:8443 --certs DIR [--ready-fd FD]
"""

import argparse
import base64
import hashlib
import html
import http.server
import json
import os
import socket
import ssl
import struct
import sys

WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
LARGEST_MESSAGE = 64 * 1024
LARGEST_UPLOAD = 64 * 1024 * 1024

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ood-ca demo: an app in {user}'s job</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; background: #fff }}
 h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
 table {{ border-collapse: collapse; width: 100% }}
 th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #ccc; overflow-wrap: anywhere }}
 th {{ width: 16rem; font-weight: 600 }}
 output {{ display: block; white-space: pre-wrap; background: #f2f4f7; padding: .6rem; min-height: 1.5rem }}
 button, input {{ font: inherit; padding: .3rem .6rem }}
</style>
<h1>You have reached an app in {user}'s job</h1>
<p>Your browser spoke to the portal, the portal's nginx of {user} spoke to this app
over mutual TLS, and nobody else can.</p>
<h2>The connection from the portal</h2>
<table>{tls}</table>
<h2>The request as the app sees it</h2>
<table>{headers}</table>
<h2>A live WebSocket</h2>
<p><label>Say something <input id="text" value="hello"></label> <button id="send">Send</button></p>
<output id="answers" aria-live="polite">connecting…</output>
<h2>An upload</h2>
<p><input type="file" id="file" aria-label="A file to upload"> <button id="upload">Upload</button></p>
<output id="uploaded" aria-live="polite"></output>
<script>
 const show = (id, text) => document.getElementById(id).textContent = text;
 const here = new URL('.', location.href);
 const socket = new WebSocket(here.href.replace(/^http/, 'ws') + 'echo');
 socket.onopen = () => {{ show('answers', 'connected'); socket.send('hello'); }};
 socket.onmessage = (event) => show('answers', 'the app answers: ' + event.data);
 socket.onclose = () => show('answers', 'closed');
 document.getElementById('send').onclick = () => socket.send(document.getElementById('text').value);
 document.getElementById('upload').onclick = async () => {{
   const file = document.getElementById('file').files[0];
   if (!file) return show('uploaded', 'choose a file first');
   const answer = await fetch('upload', {{ method: 'POST', body: file }});
   show('uploaded', await answer.text());
 }};
</script>
</html>
"""


def rows(pairs):
    return "".join(
        f"<tr><th scope=row>{html.escape(str(name))}<td>{html.escape(str(value))}"
        for name, value in pairs
    )


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "ood-ca-demo"
    timeout = 300

    def log_message(self, *_):
        pass

    def tls_facts(self):
        if not isinstance(self.connection, ssl.SSLSocket):
            # The end in front of this app says so, and nobody else can.
            facts = {
                "client certificate of": "X-Client-Cert-Subject",
                "signed by authority": "X-Client-Cert-Issuer",
                "valid until": "X-Client-Cert-Not-After",
            }
            return [(name, self.headers.get(header, "")) for name, header in facts.items()]
        peer = self.connection.getpeercert() or {}
        subject = dict(pair for group in peer.get("subject", ()) for pair in group)
        issuer = dict(pair for group in peer.get("issuer", ()) for pair in group)
        return [
            ("protocol", self.connection.version()),
            ("cipher", self.connection.cipher()[0]),
            ("client certificate of", subject.get("commonName", "")),
            ("signed by authority", issuer.get("commonName", "")),
            ("valid until", peer.get("notAfter", "")),
        ]

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        place = self.path.split("?")[0].rsplit("/", 1)[-1]
        if place == "echo":
            self.echo()
        elif place == "facts.json":
            facts = {"tls": dict(self.tls_facts()), "headers": dict(self.headers.items()), "path": self.path}
            self.answer(200, "application/json", json.dumps(facts).encode())
        elif place == "":
            page = PAGE.format(
                user=html.escape(self.server.user),
                tls=rows(self.tls_facts()),
                headers=rows([("request line", self.requestline), *self.headers.items()]),
            )
            self.answer(200, "text/html; charset=utf-8", page.encode())
        else:
            self.answer(404, "text/plain", b"there is nothing of that name here\n")

    def chunks(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline(32).split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline(8)
            self.rfile.readline(8)
            return
        left = int(self.headers.get("Content-Length", 0))
        while left > 0:
            chunk = self.rfile.read(min(left, 65536))
            if not chunk:
                return
            left -= len(chunk)
            yield chunk

    def do_POST(self):
        digest, size = hashlib.sha256(), 0
        for chunk in self.chunks():
            size += len(chunk)
            if size > LARGEST_UPLOAD:
                self.close_connection = True
                self.answer(413, "text/plain", b"larger than 64 MiB\n")
                return
            digest.update(chunk)
        self.answer(200, "text/plain", f"received {size} bytes, sha256 {digest.hexdigest()}\n".encode())

    def echo(self):
        key = self.headers.get("Sec-WebSocket-Key", "")
        if self.headers.get("Upgrade", "").lower() != "websocket" or not key:
            self.answer(400, "text/plain", b"this is a WebSocket\n")
            return
        accept = base64.b64encode(hashlib.sha1(key.encode() + WEBSOCKET_GUID).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        while (frame := self.read_frame()) is not None:
            opcode, payload = frame
            if opcode == 8:
                self.write_frame(8, payload[:2])
                return
            self.write_frame(10 if opcode == 9 else opcode, payload)

    def read_frame(self):
        head = self.rfile.read(2)
        if len(head) < 2:
            return None
        opcode, length = head[0] & 15, head[1] & 127
        if length == 126:
            (length,) = struct.unpack("!H", self.rfile.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.rfile.read(8))
        if length > LARGEST_MESSAGE or not head[1] & 128:
            return None
        mask = self.rfile.read(4)
        payload = self.rfile.read(length)
        return opcode, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))

    def write_frame(self, opcode, payload):
        length = len(payload)
        head = bytes([128 | opcode]) + (bytes([length]) if length < 126 else b"\x7e" + struct.pack("!H", length))
        self.wfile.write(head + payload)
        self.wfile.flush()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    context = None

    def server_bind(self):
        if self.address_family == socket.AF_UNIX:
            self.socket.bind(self.server_address)
            self.server_name, self.server_port = "localhost", 0
        else:
            super().server_bind()

    def get_request(self):
        connection, address = super().get_request()
        if self.context is None:
            return connection, address or ("", 0)
        # The handshake happens in the connection's own thread, on first use.
        connection.settimeout(10)
        wrapped = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if isinstance(error, (ssl.SSLError, OSError)):
            print(f"refused {client_address[0]}: {error}", flush=True)
        else:
            super().handle_error(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            if self.context is not None:
                request.do_handshake()
        except (ssl.SSLError, OSError):
            self.handle_error(request, client_address)
            self.shutdown_request(request)
            return
        request.settimeout(None)
        super().process_request_thread(request, client_address)


class UnixServer(Server):
    address_family = socket.AF_UNIX


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", metavar="WHERE", help="ADDR:PORT or unix:PATH [default: where ood-job says]")
    parser.add_argument("--certs", metavar="DIR", help="what `ood-ca issue --out DIR` wrote; without it: no TLS")
    parser.add_argument("--user", default="somebody")
    parser.add_argument("--ready-fd", type=int, help="write the port here once it listens")
    args = parser.parse_args()

    if args.certs is None:
        serve(open_at(args.listen or told_by_ood_job()), args)
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(f"{args.certs}/server.crt", f"{args.certs}/server.key")
    context.load_verify_locations(f"{args.certs}/trust.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    server = open_at(args.listen)
    server.context = context
    serve(server, args)


def told_by_ood_job():
    if path := os.environ.get("OOD_JOB_APP_SOCKET"):
        return f"unix:{path}"
    return "{OOD_JOB_APP_HOST}:{OOD_JOB_APP_PORT}".format_map(os.environ)


def open_at(where):
    if where.startswith("unix:"):
        return UnixServer(where.removeprefix("unix:"), Handler)
    address, port = where.rsplit(":", 1)
    return Server((address, int(port)), Handler)


def serve(server, args):
    server.user = args.user
    if args.ready_fd is not None:
        os.write(args.ready_fd, f"{server.server_address[1]}\n".encode())
        os.close(args.ready_fd)
    server.serve_forever()


if __name__ == "__main__":
    main()
