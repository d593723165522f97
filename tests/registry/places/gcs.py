"""A small Google Cloud Storage: its XML API as far as obstore speaks it, in memory.

No emulator that can be installed honours ``x-goog-if-generation-match`` in the XML API, so this
one follows the documented behaviour of these pages of https://cloud.google.com/storage/docs:

- xml-api/put-object-upload, xml-api/get-object-download, xml-api/head-object, xml-api/delete-object
- xml-api/get-bucket-list (version 2 of the listing), xml-api/reference-headers
- xml-api/post-object-multipart, xml-api/put-object-multipart, xml-api/post-object-complete,
  xml-api/delete-multipart
- request-preconditions (412 where ``x-goog-if-generation-match`` is another; 0: no such object)

Run as ``python -m tests.registry.places.gcs PORT``. The token ``reader`` may only read, any other
may write too; without a token nothing is answered.
"""

from __future__ import annotations

import hashlib
import http.server
import itertools
import re
import sys
import threading
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

READER = "reader"
PAGE = 1000
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")
_PART = re.compile(rb"<PartNumber>([0-9]+)</PartNumber>")


class _Object(NamedTuple):
    data: bytes
    tag: str
    generation: int
    modified: str

    @property
    def headers(self) -> dict[str, str]:
        return {
            "ETag": self.tag,
            "Last-Modified": self.modified,
            "x-goog-generation": str(self.generation),
        }


class _Storage:
    """All buckets, and the uploads in parts that are not complete."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[tuple[str, str], _Object] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self._numbers = itertools.count(1_700_000_000_000_000)

    def put(self, bucket: str, name: str, data: bytes, wanted: str | None) -> _Object | None:
        """Write an object; None if its generation is not the wanted one."""
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        with self.lock:
            there = self.objects.get((bucket, name))
            if wanted is not None and int(wanted) != (there.generation if there else 0):
                return None
            new = _Object(data, tag, next(self._numbers), formatdate(usegmt=True))
            self.objects[bucket, name] = new
            return new


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    storage = _Storage()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self.answer(status, text.encode(), {"Content-Type": "application/xml"})

    def do(self) -> None:
        """Answer a request of any method."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.query = {
            key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()
        }
        bucket, _, name = unquote(parts.path).lstrip("/").partition("/")
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        writes = self.command not in ("GET", "HEAD")
        if kind != "Bearer" or not token:
            self.refuse(401, "AuthenticationRequired")
        elif writes and token == READER:
            self.refuse(403, "AccessDenied")
        elif not name:
            self.list(bucket)
        elif "uploads" in self.query or "uploadId" in self.query:
            self.parts(bucket, name)
        elif self.command == "PUT":
            self.put(bucket, name, self.body)
        elif self.command == "DELETE":
            with self.storage.lock:
                found = self.storage.objects.pop((bucket, name), None)
            self.answer(204) if found else self.refuse(404, "NoSuchKey")
        else:
            self.give(bucket, name)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

    def put(self, bucket: str, name: str, data: bytes, body: bytes = b"") -> None:
        wanted = self.headers.get("x-goog-if-generation-match")
        written = self.storage.put(bucket, name, data, wanted)
        if written is None:
            self.refuse(412, "PreconditionFailed")
        else:
            self.answer(200, body, written.headers)

    def give(self, bucket: str, name: str) -> None:
        found = self.storage.objects.get((bucket, name))
        if found is None:
            self.refuse(404, "NoSuchKey")
            return
        headers, data, status = found.headers, found.data, 200
        since = self.headers.get("If-Modified-Since")
        if self.headers.get("If-None-Match") == found.tag or (
            since is not None
            and parsedate_to_datetime(found.modified) <= parsedate_to_datetime(since)
        ):
            self.answer(304, b"", headers)
            return
        if asked := _RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            if first > last:
                self.refuse(416, "InvalidRange")
                return
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self.answer(status, data, headers | {"Content-Length": str(len(data))})

    def list(self, bucket: str) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        after = self.query.get("continuation-token") or self.query.get("start-after", "")
        with self.storage.lock:
            objects = sorted(self.storage.objects.items())
        entries: dict[str, str] = {}
        for (owner, name), found in objects:
            if owner != bucket or not name.startswith(prefix):
                continue
            folder, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if cut:
                common = escape(prefix + folder + delimiter)
                text = f"<CommonPrefixes><Prefix>{common}</Prefix></CommonPrefixes>"
                entries.setdefault(prefix + folder + delimiter, text)
                continue
            date = parsedate_to_datetime(found.modified).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            entries[name] = (
                f"<Contents><Key>{escape(name)}</Key><LastModified>{date}</LastModified>"
                f"<ETag>{found.tag}</ETag><Size>{len(found.data)}</Size></Contents>"
            )
        names = [name for name in entries if name > after]
        text = "".join(entries[name] for name in names[:PAGE])
        if len(names) > PAGE:
            last = escape(names[PAGE - 1])
            text += f"<NextContinuationToken>{last}</NextContinuationToken>"
        self.answer(200, f"<ListBucketResult>{text}</ListBucketResult>".encode())

    def parts(self, bucket: str, name: str) -> None:
        """Answer a request about an upload in parts, which is an object when it is complete."""
        uploads = self.storage.uploads
        if "uploads" in self.query:
            upload = f"upload-{len(uploads)}-{threading.get_ident()}"
            uploads[upload] = {}
            place = f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(name)}</Key>"
            text = f"{place}<UploadId>{upload}</UploadId>"
            whole = f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>"
            self.answer(200, whole.encode())
            return
        upload = self.query["uploadId"]
        if upload not in uploads:
            self.refuse(404, "NoSuchUpload")
        elif self.command == "PUT":
            uploads[upload][int(self.query["partNumber"])] = self.body
            self.answer(200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})
        elif self.command == "DELETE":
            del uploads[upload]
            self.answer(204)
        else:
            found = uploads.pop(upload)
            data = b"".join(found[int(number)] for number in _PART.findall(self.body))
            tag = hashlib.md5(data).hexdigest()
            text = (
                f"<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
            )
            self.put(bucket, name, data, text.encode())


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


if __name__ == "__main__":
    _Server(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
