"""Models on a hub, against a small server that answers as huggingface.co does."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import torch

from deepfuse_d2.checkpoint import hub
from deepfuse_d2.checkpoint.model_folder import open_folder, write_mark
from deepfuse_d2.checkpoint.writing import write_weights
from deepfuse_d2.errors import UserError, WeightsError

pytest.importorskip("huggingface_hub", reason='needs the extra "hub"')


class Hub(ThreadingHTTPServer):
    """Repositories in memory: files of each by its name, under one commit."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        self.server.asked.append(f"{self.command} /{'/'.join(parts)}")
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            files = self.server.repositories.get(name)
            sha = hashlib.sha1(name.encode()).hexdigest()
            if files is None or (len(parts) > 5 and parts[5] not in ("main", "v1", sha)):
                code = "RepoNotFound" if files is None else "RevisionNotFound"
                return self.answer({"error": "not found"}, 404, X_Error_Code=code)
            if len(parts) > 4 and parts[4] == "tree":
                tree = [
                    {"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()}
                    for k, v in files.items()
                ]
                return self.answer(tree, Content_Type="application/json")
            siblings = [{"rfilename": file} for file in files]
            return self.answer(
                {"id": name, "modelId": name, "sha": sha, "siblings": siblings, "tags": []},
                Content_Type="application/json",
            )
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        content = self.server.repositories.get(name, {}).get(file)
        if content is None:
            return self.answer({"error": "not found"}, 404, X_Error_Code="EntryNotFound")
        return self.answer(
            content,
            ETag=f'"{hashlib.sha1(content).hexdigest()}"',
            X_Repo_Commit=hashlib.sha1(name.encode()).hexdigest(),
            Accept_Ranges="bytes",
        )

    do_HEAD = do_GET

    def do_POST(self):
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        self.server.asked.append(f"POST /{'/'.join(parts)}")
        sent = self.body()
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer({"error": "unauthorised"}, 401)
        if parts == ["api", "repos", "create"]:
            asked = json.loads(sent)
            name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.server.address}/{name}"})
        if parts == ["api", "validate-yaml"]:  # of the card
            return self.answer({"errors": [], "warnings": []})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = json.loads(sent)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular"} for f in files]
            return self.answer({"files": [{**m, "shouldIgnore": False} for m in modes]})
        for line in map(json.loads, sent.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.repositories[name][line["value"]["path"]] = content
        address = f"{self.server.address}/{name}/commit/{'0' * 40}"
        return self.answer(
            {"success": True, "commitOid": "0" * 40, "commitUrl": address, "hookOutput": ""}
        )


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    # huggingface_hub reads HF_HOME once, when it is imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    """A model folder, as small as one can be."""
    path = tmp_path / "model"
    path.mkdir()
    write_weights(path / "model.safetensors", {"a.weight": torch.arange(4.0)}, "", {})
    (path / "config.yaml").write_text("VERSION: 2\n")
    (path / "labels.json").write_text('{"thing_classes": ["cell"]}')
    (path / "README.md").write_text("# cells\n")
    files = ["config.yaml", "model.safetensors", "labels.json"]
    write_mark(path, files, {"MODEL.META_ARCHITECTURE": "RetinaNet"}, "deepfuse_d2 0")
    return path


def test_what_is_pushed_is_fetched_again(server, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    for name in ("int8.json", "int8-backbone.xml", "int8-backbone.bin"):
        (folder / name).write_text("{}")
    (folder / "model.py").write_text("raise SystemExit")
    (folder / "aot").mkdir()
    for name in ("aot.json", "backbone.pt2"):
        (folder / "aot" / name).write_text("{}")
    address = hub.push(folder, "hf://owner/cells")
    assert address.startswith(f"{server.address}/owner/cells/commit/")
    names = {path.name for path in folder.iterdir()} - {"model.py", "aot"}
    assert {name for name in server.repositories["owner/cells"] if name[0] != "."} == names
    found = open_folder("hf://owner/cells")
    assert found.labels == {"thing_classes": ["cell"]}
    for name in names:
        assert (found.path / name).read_bytes() == (folder / name).read_bytes(), name


def test_code_in_a_repository_is_not_even_fetched(server, folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    code = ("handler.py", "a.pkl", "pytorch_model.bin", "aot/aot.json", "aot/backbone.pt2")
    server.repositories["owner/cells"] = files | dict.fromkeys(code, b"x")
    path = open_folder("hf://owner/cells").path
    assert {file.name for file in path.iterdir()} == set(files)
    assert not any(name in asked for asked in server.asked for name in code)


def test_a_second_use_fetches_no_file_again(server, folder):
    server.repositories["owner/cells"] = {p.name: p.read_bytes() for p in folder.iterdir()}
    open_folder("hf://owner/cells")
    server.asked.clear()
    open_folder("hf://owner/cells")
    assert not any(asked.startswith("GET /owner/cells/resolve") for asked in server.asked)


def test_a_revision_is_asked_for_by_name(server, folder):
    server.repositories["owner/cells"] = {p.name: p.read_bytes() for p in folder.iterdir()}
    open_folder("hf://owner/cells@v1")
    assert any("/revision/v1" in asked for asked in server.asked)
    with pytest.raises(WeightsError, match=r"hf://owner/cells@v9 cannot be fetched: .*revision"):
        open_folder("hf://owner/cells@v9")


def test_a_model_that_is_not_there_is_named(server):
    with pytest.raises(WeightsError, match=r"hf://owner/nothing cannot be fetched: .*HF_TOKEN"):
        open_folder("hf://owner/nothing")


@pytest.mark.parametrize("name", ["hf://cells", "hf://a/b/c", "hf://a/b@", "hf://../b@x y"])
def test_a_name_that_is_none_is_answered_with_the_form(name):
    with pytest.raises(WeightsError, match=r"expected hf://owner/name\[@revision\]"):
        open_folder(name)


def test_a_push_without_the_right_to_it_says_so(server, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"hf://owner/cells was not uploaded: .*HF_TOKEN"):
        hub.push(folder, "hf://owner/cells")
    assert not server.repositories


def test_only_a_model_folder_is_pushed(deepfuse, server, tmp_path, capsys):
    assert deepfuse("push", tmp_path, "hf://owner/cells") == 2
    assert "without deepfuse_d2.json, so no model" in capsys.readouterr().err
    assert not server.asked


def test_a_missing_huggingface_hub_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "deepfuse-d2\[hub\]"'):
        hub.fetch("hf://owner/cells")


def test_a_process_reads_the_address_of_its_hub_from_the_environment(server, folder, tmp_path):
    server.repositories["owner/cells"] = {p.name: p.read_bytes() for p in folder.iterdir()}
    script = (
        "from deepfuse_d2.checkpoint.model_folder import open_folder;"
        "print(open_folder('hf://owner/cells').path)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True, text=True, check=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home")
