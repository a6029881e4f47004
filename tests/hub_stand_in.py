"""A stand-in of the hub's HTTP interface in this process, as far as an upload needs it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OID = "c" * 40


@dataclass
class Hub:
    """What the stand-in holds, and what it was asked.

    Attributes:
        repos: whether each repository is private.
        files: content by name, of the one repository a test uses.
        large: names of files that were sent as large ones.
        asked: method and path of every request.
        refuses: status with which commits are refused; None to accept.
        spoils: name of a file that the hub stores damaged.
    """

    repos: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)
    refuses: int | None = None
    spoils: str | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._note()
        repo = _repo(self.path)
        if repo not in self.hub.repos:
            self._answer(404, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in self.path:
            self._answer(200, [self._entry(name) for name in self.hub.files])
        else:
            siblings = [self._sibling(name) for name in self.hub.files]
            private = self.hub.repos[repo]
            self._answer(
                200, {"id": repo, "private": private, "sha": OID, "siblings": siblings, "tags": []}
            )

    def do_POST(self) -> None:
        self._note()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            self.hub.repos[name] = asked.get("private", asked.get("visibility") == "private")
            self._answer(200, {"url": f"{self.hub.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/branch/" in self.path:
            self.hub.branches.append(self.path.rpartition("/")[2])
            self._answer(200, {})
        elif "/preupload/" in self.path:
            files = [self._mode(each) for each in json.loads(body)["files"]]
            self._answer(200, {"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._answer(200, {"objects": [self._action(o) for o in json.loads(body)["objects"]]})
        elif "/commit/" in self.path:
            self._commit(body)
        else:
            self._answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        self._note()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.objects[self.path.rpartition("/")[2]] = content
        self._answer(200, {})

    def _note(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")

    def _mode(self, file: Any) -> dict[str, Any]:
        large = file["path"].endswith((".safetensors", ".gguf"))
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _action(self, wanted: Any) -> dict[str, Any]:
        href = f"{self.hub.url}/objects/{wanted['oid']}"
        return {**wanted, "actions": {"upload": {"href": href, "header": {}}}}

    def _commit(self, body: bytes) -> None:
        if self.hub.refuses is not None:
            self._answer(self.hub.refuses, {"error": "you may not write here"})
            return
        for line in body.decode().splitlines():
            entry = json.loads(line)
            told = entry["value"]
            if entry["key"] == "file":
                self.hub.files[told["path"]] = base64.b64decode(told["content"])
            elif entry["key"] == "lfsFile":
                self.hub.files[told["path"]] = self.hub.objects[told["oid"]]
                self.hub.large.add(told["path"])
            elif entry["key"] == "deletedFile":
                del self.hub.files[told["path"]]
        if self.hub.spoils is not None:
            damaged = self.hub.files[self.hub.spoils]
            self.hub.files[self.hub.spoils] = damaged[:-1] + bytes([damaged[-1] ^ 1])
        url = f"{self.hub.url}/{_repo(self.path)}/commit/{OID}"
        self._answer(200, {"success": True, "commitUrl": url, "commitOid": OID})

    def _entry(self, name: str) -> dict[str, Any]:
        content = self.hub.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}

    def _sibling(self, name: str) -> dict[str, Any]:
        content = self.hub.files[name]
        found: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
        if name in self.hub.large:
            checksum = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"sha256": checksum, "size": len(content), "pointerSize": 100}
        return found

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)


def _repo(path: str) -> str:
    """OWNER/NAME in the path of a request."""
    found = re.match(r"/(?:api/models/)?([^/]+/[^/?]+)", path)
    assert found is not None, path
    return found[1]


@contextmanager
def standing_in() -> Iterator[Hub]:
    """A hub that listens on a free port of this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
