#!/usr/bin/env python3
"""The visits that the demo makes: one line each, `ok` or `FAILED`.

    visit.py owner    --portal URL --app PATH --user NAME            <<< COOKIE
    visit.py stranger --portal URL --app PATH --user NAME --to NAME  <<< COOKIE
    visit.py login    --portal URL --app PATH
    visit.py past     --job ADDR:PORT --user NAME
    visit.py direct   --job ADDR:PORT --user NAME [--pki DIR] [--expect entry]
    visit.py reach    --socket PATH… --file PATH…

The session cookie comes from standard input, as arguments are for all to see.
Exits with 1 if one of them did not go as it should. Standard library only.
"""

import argparse
import base64
import hashlib
import http.client
import json
import os
import socket
import ssl
import struct
import sys
import urllib.parse

PATIENCE = 10  # seconds, for each step
UPLOAD = 5 * 1024 * 1024  # bytes

failures = 0


def report(good, what):
    global failures
    failures += not good
    print(("  ok      " if good else "  FAILED  ") + what, flush=True)


class Portal:
    """The portal as the browser of somebody who is logged in sees it."""

    def __init__(self, url, cookie=""):
        self.host = urllib.parse.urlsplit(url).netloc
        self.url, self.cookie = url.rstrip("/"), cookie.strip()

    def connect(self):
        return http.client.HTTPConnection(self.host, timeout=PATIENCE)

    def headers(self):
        return {"Cookie": self.cookie, "Origin": self.url} if self.cookie else {}

    def ask(self, method, path, body=None):
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers())
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def talk(self, path, text):
        """What a WebSocket answers (RFC 6455), or the status that refused it."""
        connection = self.connect()
        connection.request("GET", path, headers={
            **self.headers(), "Connection": "Upgrade", "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        })
        stream = connection.sock
        reader = stream.makefile("rb")
        status = int(reader.readline().split()[1])
        while reader.readline().strip():
            pass
        if status != 101:
            return status
        mask, payload = os.urandom(4), text.encode()
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        stream.sendall(bytes([0x81, 0x80 | len(payload)]) + mask + masked)
        opcode, length = struct.unpack("BB", reader.read(2))
        answer = reader.read(length).decode()
        connection.close()
        return answer


def owner(args):
    portal = Portal(args.portal, sys.stdin.readline())
    status, page = portal.ask("GET", args.app)
    report(status == 200 and b"You have reached an app" in page, f"{args.user} sees the page of the app in the job ({status})")

    facts = json.loads(portal.ask("GET", args.app + "facts.json")[1])
    tls = facts["tls"]
    report(
        tls["client certificate of"].removeprefix("CN=") == args.user,
        f"the job sees a client certificate of {tls['client certificate of']}",
    )
    headers = {name.lower(): value for name, value in facts["headers"].items()}
    report(
        headers.get("x-forwarded-user") == args.user and "mod_auth_openidc" not in headers.get("cookie", ""),
        f"X-Forwarded-User is {headers.get('x-forwarded-user')}; the portal's session cookie stayed behind",
    )

    answer = portal.talk(args.app + "echo", "hello")
    report(answer == "hello", f"a WebSocket echoes: {answer}")

    body = os.urandom(UPLOAD)
    status, answer = portal.ask("POST", args.app + "upload", body)
    digest = hashlib.sha256(body).hexdigest().encode()
    report(status == 200 and digest in answer, f"an upload of {UPLOAD >> 20} MiB arrives whole ({status})")


def stranger(args):
    portal = Portal(args.portal, sys.stdin.readline())
    status, page = portal.ask("GET", args.app)
    report(status == 502 and b"You have reached" not in page, f"{args.user} is not let into the app of {args.to} ({status})")
    answer = portal.talk(args.app + "echo", "hello")
    report(answer == 502, f"nor by a WebSocket ({answer})")


def login(args):
    status, page = Portal(args.portal).ask("GET", args.app)
    report(status == 403 and b"You have reached" not in page, f"who is not logged in gets nothing from the portal ({status})")


def get_in(job, context):
    """The status line that the job answers with, or why there is none."""
    address, port = job.rsplit(":", 1)
    try:
        with socket.create_connection((address, int(port)), PATIENCE) as plain:
            stream = context.wrap_socket(plain) if context else plain
            stream.sendall(b"GET / HTTP/1.1\r\nHost: job\r\nConnection: close\r\n\r\n")
            said = stream.recv(4096).split(b"\r\n")[0].decode(errors="replace") or "closed"
            if context:
                return f"{said} ({stream.version()})"
            return said if said.isprintable() else "answered with a TLS alert"
    except ssl.SSLError as error:
        return error.reason or str(error.args[-1])
    except OSError as error:
        return error.strerror or str(error)


def past(args):
    said = get_in(args.job, None)
    report(said == "Connection refused", f"{args.user} connects to the app past its TLS end, at {args.job}: {said}")


def direct(args):
    def client(pki=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Whoever breaks in does not care whom they talk to.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if pki:
            context.load_cert_chain(f"{pki}/client.crt", f"{pki}/client.key")
        return context

    if args.expect == "entry":
        said = get_in(args.job, client(args.pki))
        report(said.startswith("HTTP/1.1 200") and "TLSv1.3" in said, f"{args.user}, with the certificate of {args.user}: {said}")
        return
    for how, context in [
        ("without TLS", None),
        ("without a certificate", client()),
        (f"with a certificate of {args.user}", client(args.pki)),
    ]:
        said = get_in(args.job, context)
        report(not said.startswith("HTTP/"), f"{args.user} connects straight to the port, {how}: {said}")


def reach(args):
    for path in args.socket:
        try:
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(path)
            said = "connected"
        except OSError as error:
            said = error.strerror
        report(said == "Permission denied", f"{args.user} connects to somebody's web server behind the portal: {said}")
    for path in args.file:
        try:
            with open(path, "rb"):
                said = "opened"
        except OSError as error:
            said = error.strerror
        report(said == "Permission denied", f"{args.user} opens somebody's {os.path.basename(path)}: {said}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("visit", choices=["owner", "stranger", "login", "past", "direct", "reach"])
    parser.add_argument("--portal", metavar="URL")
    parser.add_argument("--app", metavar="PATH")
    parser.add_argument("--user", help="who visits")
    parser.add_argument("--to", help="whose app it is")
    parser.add_argument("--job", metavar="ADDR:PORT")
    parser.add_argument("--pki", metavar="DIR")
    parser.add_argument("--expect", choices=["entry", "refusal"], default="refusal")
    parser.add_argument("--socket", nargs="*", default=[])
    parser.add_argument("--file", nargs="*", default=[])
    args = parser.parse_args()
    try:
        visits = {"owner": owner, "stranger": stranger, "login": login, "past": past, "direct": direct, "reach": reach}
        visits[args.visit](args)
    except (OSError, http.client.HTTPException, ValueError) as error:
        report(False, f"{args.visit}: {type(error).__name__}: {error}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
