"""A hub on this machine: what huggingface_hub asks of the real one, served from folders, with faults on request.

`HubServer(folders)` serves {repository: folder} at one commit each. A fault is named in `faults`: `gated` (a licence has to be
accepted), `cut <file>` (the connection breaks in the middle of it), `flip` (one bit of a large file changes on the way).
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = 4000  # bytes from which a file is stored as a large one, known by its SHA-256


def commit_of(folder: Path) -> str:
    """A commit's name that changes with the contents."""
    names = [f"{path.relative_to(folder)} {sha256(path)}" for path in files_of(folder)]
    return hashlib.sha1("\n".join(names).encode()).hexdigest()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def blob(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer:
    def __init__(self, folders: dict[str, Path]):
        self.folders = folders
        self.faults: set[str] = set()
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and range of every request."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0].strip("/")
        self.requests.append((request.command, path, request.headers.get("Range", "")))
        parts = path.split("/")
        of_api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if of_api else parts[:2])
        folder = self.folders.get(repository)
        if folder is None:
            return self.refuse(request, 404, "RepoNotFound")
        commit = commit_of(folder)
        revision = (parts[5] if len(parts) > 5 else commit) if of_api else parts[3]
        if revision not in (commit, "main"):
            return self.refuse(request, 404, "RevisionNotFound")
        if of_api:
            return self.send(request, 200, json.dumps(self.description(repository, folder, commit)).encode(), {})
        if "gated" in self.faults:
            return self.refuse(request, 403, "GatedRepo")
        file = folder / "/".join(parts[4:])
        if not file.is_file():
            return self.refuse(request, 404, "EntryNotFound")
        large = file.stat().st_size >= LARGE
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{sha256(file) if large else blob(file)}"',
            "Accept-Ranges": "bytes",
        }
        data = file.read_bytes()
        if large and "flip" in self.faults:
            data = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
        status, asked = 200, request.headers.get("Range")
        if asked and request.command == "GET":
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        return self.send(request, status, data, headers, cut=f"cut {file.name}" in self.faults)

    def description(self, repository: str, folder: Path, commit: str) -> dict:
        siblings = []
        for path in files_of(folder):
            entry = {
                "rfilename": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "blobId": blob(path),
            }
            if entry["size"] >= LARGE:
                entry["lfs"] = {"sha256": sha256(path), "size": entry["size"], "pointerSize": 130}
            siblings.append(entry)
        return {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings, "tags": []}

    def refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self.send(request, status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def send(
        self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str], cut: bool = False
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        request.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            request.close_connection = True
