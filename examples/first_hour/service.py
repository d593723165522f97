"""A service over HTTP with one base in memory: POST a question to /formal or /brief.

usage: python service.py PORT_FILE    writes the port that it listens on
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import modpkg

answer = modpkg.pipeline(["formal", "brief"], live=True)


class Helpdesk(BaseHTTPRequestHandler):
    """Answers with the adapter that the path names."""

    def do_POST(self) -> None:
        """Answer the question in the body."""
        question = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            text, status = answer(question, adapter=self.path[1:]).text or "", 200
        except modpkg.ModpkgError as error:  # such as an adapter that it does not have
            text, status = str(error), 404
        self.send_response(status)
        self.end_headers()
        self.wfile.write(f"{text}\n".encode())

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""


with ThreadingHTTPServer(("127.0.0.1", 0), Helpdesk) as server:
    Path(sys.argv[1]).write_text(str(server.server_port))
    server.serve_forever()
