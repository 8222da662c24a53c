"""Models come from the Hub whole or not at all: pinned, verified, resumed; every failure is one line, and trying again helps.

A server on the loopback address stands for the Hub; everything between it and the files is the real client.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer, commit_of, sha256
from miniatures import write_model, write_transcoders

from biology.cli.fetching import BEGIN, rows, with_table
from biology.config import known_models
from biology.models.hub import MODEL_FILES, _matches, patterns

ROOT = Path(__file__).parents[1]
SHAPE = (
    "{architecture: llama, n_layers: 2, d_model: 32, n_heads: 4, n_key_value_heads: 2, d_head: 8, d_mlp: 64, n_vocab: 100,"
    " tied: true}"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folders of a model and of its cross-layer transcoders, as on the Hub, with files that nobody should want."""
    folder = tmp_path_factory.mktemp("published")
    model = write_model(folder / "model", "llama")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "pytorch_model.bin").write_bytes(b"pickle" * 1000)
    (model / "original").mkdir()
    (model / "original/consolidated.safetensors").write_bytes(b"other weights" * 1000)
    write_transcoders(folder / "transcoders", "circuit-tracer cross-layer")
    return folder


@pytest.fixture
def hub(published, tmp_path):
    folders = {"someone/mini": tmp_path / "hub/model", "someone/mini-clt": tmp_path / "hub/transcoders"}
    shutil.copytree(published, tmp_path / "hub")
    server = HubServer(folders)
    yield server
    server.close()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "here").mkdir()
    configure(tmp_path / "here")
    return tmp_path / "here"


def configure(root, revision="null", model="someone/mini", more=""):
    (root / "config.yaml").write_text(
        f"""models:
  mini:
    hub:
      model: {{repo: {model}, revision: {revision}{more}}}
      transcoders: {{repo: someone/mini-clt, files: [config.yaml, "W_enc_{{layer}}.safetensors", "W_dec_{{layer}}.safetensors"],
        kind: cross_layer, features: 48}}
      shape: {SHAPE}
"""
    )


def fetch(root, hub, *arguments, limit=None):
    """Exit code and what `biology fetch` said, in a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"), "HF_ENDPOINT": hub if isinstance(hub, str) else hub.url, "HF_HOME": str(root / "home"),
        "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
        "PYTHONDONTWRITEBYTECODE": "1",  # or Python leaves half-written bytecode for whoever comes next
    }  # fmt: skip

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "biology", "fetch", "--model", "mini", *arguments],
        cwd=root, env=environment, capture_output=True, text=True, preexec_fn=small_files if limit else None,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def refused(root, hub, *words, **options):
    """One line that holds the words, exit code 2, and no record that would call the download whole."""
    code, _, said = fetch(root, hub, **options)
    assert code == 2, said
    complaint = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(complaint) == 1 and "Traceback" not in said, said
    for word in words:
        assert word in complaint[0]
    assert not (root / "data/runs/mini/fetch.json").exists()


def whole(root, hub):
    """A fetch that ends well, and both folders hold what is published."""
    code, said, complaint = fetch(root, hub)
    assert code == 0, complaint
    for repository, folder in hub.folders.items():
        here = root / "data/hub" / repository.replace("/", "--")
        record = json.loads((here / "fetched.json").read_text())
        assert (record["repo"], record["revision"]) == (repository, commit_of(folder))
        assert record["revision"] in said
        assert record["files"] == {name: sha256(folder / name) for name in record["files"]}
        found = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
        assert found == {*record["files"], "fetched.json"}
    came = json.loads((root / "data/hub/someone--mini/fetched.json").read_text())["files"]
    assert {"model.safetensors", "chat_template.jinja"} <= came.keys()
    assert set(json.loads((root / "data/runs/mini/fetch.json").read_text())) == {"model", "transcoders"}


def test_only_wanted_files_come_and_a_second_time_needs_no_network(root, hub):
    whole(root, hub)
    assert not list(root.rglob("*.bin")) and not list(root.rglob("original"))
    asked = len(hub.requests)
    whole(root, hub)
    assert len(hub.requests) == asked
    (root / "data/hub/someone--mini-clt/layer_0.safetensors").touch()
    code, _, said = fetch(root, hub)
    assert code == 2 and "mini-clt holds layer_0.safetensors, which was not downloaded" in said
    (root / "data/hub/someone--mini-clt/layer_0.safetensors").unlink()


def test_a_broken_download_goes_on_where_it_stopped(root, hub):
    name = "model-large.safetensors"  # of several of the blocks in which the client writes
    (hub.folders["someone/mini"] / name).write_bytes(bytes(24 << 20))
    hub.faults.add("cut " + name)
    refused(root, hub, "someone/mini", "run `biology fetch` again")
    (partial,) = (root / "data/hub/someone--mini").glob(f".{name}.*.partial")
    arrived, before = partial.stat().st_size, len(hub.requests)
    assert 0 < arrived < 24 << 20 and not (partial.parent / name).exists()
    hub.faults.clear()
    whole(root, hub)
    assert [where for _, path, where in hub.requests[before:] if path.endswith(name)] == [f"bytes={arrived}-"]


def test_a_bit_that_flips_on_the_way_is_noticed(root, hub):
    hub.faults.add("flip")
    refused(root, hub, "arrived damaged", "run `biology fetch` again")
    hub.faults.clear()
    whole(root, hub)


def test_a_bit_that_flips_on_disk_is_noticed_and_repaired(root, hub, capsys, monkeypatch):
    from biology.__main__ import main

    whole(root, hub)
    file = root / "data/hub/someone--mini-clt/W_dec_0.safetensors"
    data = bytearray(file.read_bytes())
    data[-50] ^= 1
    file.write_bytes(data)
    monkeypatch.chdir(root)
    assert main(["load", "--model", "mini"]) == 2
    said = capsys.readouterr().err
    assert (
        "W_dec_0.safetensors is missing or has another hash than the download" in said
        and "biology fetch --model mini" in said
    )
    whole(root, hub)


def test_a_revision_that_does_not_exist(root, hub):
    configure(root, revision="'" + "0" * 40 + "'")
    refused(root, hub, "someone/mini has no revision 0000", "/commits/main")
    configure(root, revision=f"'{commit_of(hub.folders['someone/mini'])}'")
    whole(root, hub)


def test_another_revision_than_the_one_here_is_refused_and_fetched(root, hub, capsys, monkeypatch):
    from biology.__main__ import main

    whole(root, hub)
    model = hub.folders["someone/mini"]
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "new": 1}))
    (model / "generation_config.json").unlink()  # of the old revision it must not stay
    configure(root, revision=f"'{commit_of(model)}'")
    monkeypatch.chdir(root)
    assert main(["load", "--model", "mini"]) == 2
    assert f"needs {commit_of(model)}" in capsys.readouterr().err
    whole(root, hub)


def test_an_unpinned_repository_stays_at_the_commit_that_came_first(root, hub):
    whole(root, hub)
    first = json.loads((root / "data/hub/someone--mini/fetched.json").read_text())["revision"]
    (hub.folders["someone/mini"] / "generation_config.json").write_text("{}")
    assert fetch(root, hub)[0] == 0
    assert json.loads((root / "data/hub/someone--mini/fetched.json").read_text())["revision"] == first


def test_a_licence_has_to_be_accepted(root, hub):
    hub.faults.add("gated")
    refused(root, hub, "asks for a licence", f"{hub.url}/someone/mini", "hf auth login")
    hub.faults.clear()
    whole(root, hub)


def test_no_such_repository(root, hub):
    configure(root, model="someone/else", more=", gated: true")
    refused(root, hub, "/someone/else does not exist", "hf auth login")


def test_no_network(root, hub):
    nobody = HubServer({})
    nobody.close()
    refused(root, nobody, "no connection", "run `biology fetch` again")
    whole(root, hub)


def test_a_full_disk(root, hub):
    refused(root, hub, "the disk is full", "make room", limit=20_000)
    assert not (root / "data/hub/someone--mini/model.safetensors").exists()
    whole(root, hub)


def test_a_missing_layer(root, hub):
    file = hub.folders["someone/mini-clt"] / "W_dec_1.safetensors"
    file.rename(file.with_name("gone"))
    refused(root, hub, "someone/mini-clt", "has no file W_dec_1.safetensors")
    file.with_name("gone").rename(file)
    whole(root, hub)
    text = (root / "config.yaml").read_text()
    (root / "config.yaml").write_text(text.replace("files: [config.yaml,", "files: [config.yaml, W_new.safetensors,"))
    (hub.folders["someone/mini-clt"] / "W_new.safetensors").write_bytes(b"new")
    assert "someone/mini-clt has no revision" in fetch(root, hub)[2]  # it asked, and for the commit that came first


def test_weights_that_would_have_to_be_unpickled_are_not_read(root, hub):
    (hub.folders["someone/mini"] / "model.safetensors").unlink()
    refused(root, hub, "no weights in safetensors")


def test_a_directory_of_ones_own_is_not_fetched(root, hub):
    (root / "config.yaml").write_text("models: {mini: {path: a, transcoders: b}}")
    refused(root, hub, "a directory of your own")


# Known models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, entry in known_models().items() if entry.hub])
def test_the_files_of_known_models_are_named(name):
    """Of releases in SAELens' registry by that registry, which has one file for each layer of the variant."""
    hub = known_models()[name].hub
    wanted = patterns(hub.transcoders, hub.shape.n_layers)
    weights = [pattern for pattern in wanted if pattern.endswith((".safetensors", ".npz"))]
    of_cross_layer = 2 if hub.transcoders.kind == "cross_layer" else 1
    assert len(set(weights)) == len(weights) == hub.shape.n_layers * of_cross_layer
    assert hub.transcoders.skip == ("affine" in hub.transcoders.variant or name == "llama-3.2-1b-plt")
    assert patterns(hub.model, hub.shape.n_layers) == list(MODEL_FILES)
    assert hub.model.revision is not None and len(hub.gates) >= 2


def test_patterns_do_not_cross_folders():
    assert _matches("model-00001-of-00002.safetensors", "*.safetensors")
    assert not _matches("original/consolidated.safetensors", "*.safetensors")


def test_an_unknown_release_is_refused(root, hub):
    text = (root / "config.yaml").read_text().replace("kind: cross_layer", "release: mwhanna-qwen3-4b-transcoders")
    (root / "config.yaml").write_text(text)
    refused(root, hub, "the registry of SAELens has no release 'mwhanna-qwen3-4b-transcoders' of someone/mini-clt")


def test_the_page_of_models_is_up_to_date():
    page = (ROOT / "docs/reference/models.md").read_text(encoding="utf-8")
    assert BEGIN in page and with_table(page) == page
    assert len(rows()) == len(known_models())
