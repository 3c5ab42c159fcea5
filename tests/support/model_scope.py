"""A server that answers as ModelScope's API does, as the source of its own Python client expects it (contract test)."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "b" * 40


class ModelScopeServer:
    """Repos by `owner/name` -> path -> bytes; revision `master` only."""

    def __init__(self, models, datasets=None):
        self.repos = {"models": models, "datasets": datasets or {}}
        self.lfs = (".gguf", ".safetensors", ".parquet")
        self.requests = []
        self.sent_bytes = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.answer(self)

            def do_PUT(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                names = [
                    name.split("/") for name in outer.repos["models"] if name.startswith(body["Path"] + "/")
                ]
                rows = [{"Path": owner, "Name": name} for owner, name in names]
                first = (body["PageNumber"] - 1) * body["PageSize"]
                page = rows[first : first + body["PageSize"]]
                outer.envelope(self, {"Models": page or None, "TotalCount": len(rows)})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def envelope(self, handler, data, *, status=200, code=200):
        body = json.dumps(
            {"Code": code, "Data": data, "Message": "", "RequestId": "r", "Success": code == 200}
        ).encode()
        self.send(handler, status, body, {"content-type": "application/json"})

    def send(self, handler, status, body, headers):
        handler.send_response(status)
        for name, value in {**headers, "content-length": len(body)}.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(body)

    def listing(self, files):
        rows = [{"Path": "deep", "Name": "deep", "Type": "tree", "Size": 0, "Sha256": "", "IsLFS": False}]
        for path, data in files.items():
            rows.append(
                {
                    "Path": path,
                    "Name": path.rpartition("/")[2],
                    "Type": "blob",
                    "Size": len(data),
                    "Sha256": hashlib.sha256(data).hexdigest(),
                    "IsLFS": path.endswith(self.lfs),
                    "Revision": COMMIT if path == "README.md" else "c" * 40,
                    "Mode": "33188",
                    "CommittedDate": 1700000000,
                }
            )
        return rows

    def answer(self, handler):
        parts = urlsplit(handler.path)
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        self.requests.append((unquote(parts.path), query, dict(handler.headers)))
        words = unquote(parts.path).removeprefix("/api/v1/").split("/")
        kind, rest = words[0], words[1:]
        ids = {str(number): name for number, name in enumerate(self.repos["datasets"], 100)}
        if kind == "datasets" and rest[1:] == ["repo", "tree"]:
            self.tree(handler, self.repos["datasets"][ids[rest[0]]], query)
            return
        name = "/".join(rest[:2])
        files = self.repos.get(kind, {}).get(name)
        if files is None:
            self.envelope(handler, None, status=404, code=10010205001)
        elif rest[2:] == ["repo", "files"]:
            self.tree(handler, files, query)
        elif rest[2:] == [] and kind == "datasets":
            number = next(number for number, each in ids.items() if each == name)
            self.envelope(handler, {"Id": int(number), "Type": 1})
        elif rest[2:] == ["repo"]:
            self.file(handler, files[query["FilePath"]])
        else:
            self.envelope(handler, None, status=404, code=404)

    def tree(self, handler, files, query):
        if query.get("Revision", "master") not in ("master", COMMIT):
            self.envelope(handler, {"Files": None, "IsVisual": 0, "LatestCommitter": None})
            return
        rows = self.listing(files)
        if "PageSize" in query:
            size = int(query["PageSize"])
            first = (int(query["PageNumber"]) - 1) * size
            rows = rows[first : first + size]
        committer = {"Id": "", "ShortId": COMMIT[:8], "CommitterName": "x"}
        self.envelope(handler, {"Files": rows, "IsVisual": 0, "LatestCommitter": committer})

    def file(self, handler, data):
        asked = handler.headers.get("Range")
        headers, status, start, stop = {}, 200, 0, len(data)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1 if last else len(data)
            headers = {"content-range": f"bytes {start}-{stop - 1}/{len(data)}"}
            status = 206
        self.sent_bytes += stop - start
        self.send(handler, status, data[start:stop], headers)
