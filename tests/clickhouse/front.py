"""ClickHouse's HTTP interface in front of chDB, the engine as a Python package: enough of it for the tests.

usage: front.py PORT FOLDER [USER PASSWORD]

Query and settings stand in the URL, data in the body, as a server takes them. A body of data goes through a file,
since the engine takes no binary data inside the text of a query. Answers carry ClickHouse's statuses and its
X-ClickHouse-Exception-Code. The engine is one process-wide session, so statements run one after another.
"""

import os
import re
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from chdb import session

PORT, FOLDER = int(sys.argv[1]), sys.argv[2]
USER, PASSWORD = sys.argv[3:5] if len(sys.argv) > 4 else ("default", "")
# Parameters of a URL that are no settings.
NOT_SETTINGS = {"query", "database", "user", "password", "default_format", "query_id"}
# Before the names of values that are bound to a query.
BOUND = "param_"
# Exceptions that a server answers with another status than 500.
STATUS = {60: 404, 81: 404, 62: 400, 497: 403, 516: 403}

engine = session.Session(FOLDER)
one_at_a_time = threading.Lock()


def run(query, settings, bound, body, encoding):
    """The bytes that `query` answers with, `bound` being the values of its parameters, escaped."""
    insert = re.match(r"\s*(INSERT\s+INTO\s+.*?)\s+FORMAT\s+(\w+)\s*$", query, re.I | re.S)
    if insert and body:
        pairs = ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items())
        with tempfile.NamedTemporaryFile(dir=FOLDER) as file:
            file.write(body)
            file.flush()
            head = f"{insert[1]} FROM INFILE {quoted(file.name)}"
            head += f" COMPRESSION {quoted(encoding)}" if encoding else ""
            return engine.query(f"{head} SETTINGS {pairs} FORMAT {insert[2]}" if pairs else f"{head} FORMAT {insert[2]}")
    text = query + body.decode() if body else query
    form = re.search(r"\bFORMAT\s+(\w+)\s*;?\s*$", text, re.I)
    return engine.query(text, form[1] if form else "TabSeparated", params=bound or None)


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, code=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        if url.path == "/ping":
            return self.answer(200, b"Ok.\n")
        user = self.headers.get("X-ClickHouse-User", "default")
        if (user, self.headers.get("X-ClickHouse-Key", "")) != (USER, PASSWORD):
            text = f"Code: 516. DB::Exception: {user}: Authentication failed. (AUTHENTICATION_FAILED)\n"
            return self.answer(403, text.encode(), 516)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        bound = {name[len(BOUND) :]: value for name, value in parameters.items() if name.startswith(BOUND)}
        is_setting = lambda name: name not in NOT_SETTINGS and not name.startswith(BOUND)
        settings = {name: value for name, value in parameters.items() if is_setting(name)}
        try:
            with one_at_a_time:
                result = run(parameters.get("query", ""), settings, bound, body, self.headers.get("Content-Encoding"))
                data = bytes(result.bytes()) if result is not None and result.has_error() is False else b""
                if result is not None and result.has_error():
                    raise RuntimeError(result.error_message())
        except Exception as error:  # The engine raises plain exceptions; the code stands in their text.
            found = re.search(r"Code: (\d+)", str(error))
            code = int(found[1]) if found else 1002
            return self.answer(STATUS.get(code, 500), (str(error) + "\n").encode(), code)
        self.answer(200, data)

    def log_message(self, form, *args):
        if os.environ.get("FRONT_LOG"):
            sys.stderr.write(form % args + "\n")


ThreadingHTTPServer(("127.0.0.1", PORT), Front).serve_forever()
