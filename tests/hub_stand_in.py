"""A small server that answers like the Hugging Face Hub: it makes repositories, takes commits and serves files."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_writer"


class Handler(BaseHTTPRequestHandler):
    """Answers for the repositories in ``server.repositories``: files by name, by the name of the repository."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value, status=200, **headers):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status, code):
        self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(("POST", self.path))
        if self.path == "/api/validate-yaml":
            header = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            wrong = [{"message": f"{key} is missing"} for key in ("license", "tags") if not header.get(key)]
            return self.answer({"errors": wrong, "warnings": []}, 400 if wrong else 200)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "Unauthorized")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if not name.startswith("user/"):
                return self.refuse(403, "Forbidden")
            self.server.private[name] = asked.get("visibility") == "private" or asked.get("private") is True
            known = self.server.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.server.address}/{name}"}, 409 if known else 200)
        found = re.fullmatch(r"/api/models/(\w+/[\w-]+)/(preupload|commit)/main", self.path.partition("?")[0])
        name, action = found.groups()
        if action == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            return self.answer(
                {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]}
            )
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        sha = self.sha(name)
        return self.answer({"commitUrl": f"{self.server.address}/{name}/commit/{sha}", "commitOid": sha})

    def sha(self, name):
        return hashlib.sha1(repr(sorted(self.server.repositories[name].items())).encode()).hexdigest()

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        path = self.path.partition("?")[0]
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if name not in self.server.repositories:
            return self.refuse(404, "RepoNotFound")
        files = self.server.repositories[name]
        if "/revision/" in path:
            return self.answer({"id": name, "sha": self.sha(name), "siblings": [{"rfilename": f} for f in files]})
        if "/tree/" in path:
            return self.answer([{"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                                for f, c in files.items()])  # fmt: skip
        file = path.split("/", 5)[5]
        if file not in files:
            return self.refuse(404, "EntryNotFound")
        return self.answer(files[file], ETag=f'"{hashlib.sha1(files[file]).hexdigest()}"', X_Repo_Commit=self.sha(name))

    do_HEAD = do_GET


@contextmanager
def hub():
    """A server that runs until the end; ``address`` is its own, and ``asked`` lists what it was asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.repositories, server.private, server.asked = {}, {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
