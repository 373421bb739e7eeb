"""A built data set to the Hub: what goes up, what stays private, and who may publish."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow.parquet
import pytest

import ccsam_hf.data.push as pushing
from ccsam_hf.data.build import Download, build
from ccsam_hf.data.push import files_of, push_built
from ccsam_hf.data.simulator import write_folder
from ccsam_hf.data.splits import divide
from hub_server import connect, environment, serve


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("push")
    write_folder(directory / "own", count=10, seed=0, targets=("breast lesion",), size=(64, 64))
    build([Download("folder", directory / "own")], directory / "set", partial(divide, seed=0))
    return directory / "set"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve(tmp_path / "hub") as running:
        connect(running, pushing, monkeypatch)
        yield running


@pytest.fixture
def public(hub):
    """The name of a public data set that exists."""
    hub.create("me", {"name": "public", "type": "dataset"})
    return "me/public"


def contents(directory: Path) -> dict[str, bytes]:
    return {path: (directory / path).read_bytes() for path in files_of(directory)}


def test_a_push_makes_a_private_data_set_of_the_files_of_the_build(built, hub):
    url = push_built(built, "me/set")
    commit = hub.repositories["datasets/me/set"].branches["main"]
    assert url == f"{hub.url}/datasets/me/set/commit/{commit}"
    assert hub.repositories["datasets/me/set"].private
    assert hub.files("datasets/me/set") == contents(built)
    assert hub.unknown == []


PUSH_AND_LOAD = """
import json, sys
from ccsam_hf.cli.main import main
assert main(["data", "push", sys.argv[1], "--repo-id", "me/set"]) == 0
import datasets
rows = [row for split in datasets.load_dataset("me/set").values() for row in split]
print(json.dumps({row["name"]: [row["target"], row["split"], list(row["image"].size)] for row in rows}))
"""


@pytest.mark.slow
def test_a_data_set_that_the_command_pushed_is_loaded_by_its_name(built, tmp_path):
    with serve(tmp_path / "hub") as hub:
        ended = subprocess.run(
            [sys.executable, "-c", PUSH_AND_LOAD, str(built)],
            env=environment(hub, tmp_path / "home"),
            capture_output=True,
            text=True,
        )
    assert ended.returncode == 0, ended.stderr
    *told, loaded = ended.stdout.splitlines()
    assert "is for its owner to state" in told[0] and "uploaded to" in told[1]
    tables = [pyarrow.parquet.read_table(path, columns=["name", "split"]) for path in built.glob("data/own/*")]
    expected = {
        row["name"]: ["breast lesion", row["split"], [64, 64]] for table in tables for row in table.to_pylist()
    }
    assert len(expected) == 10 and json.loads(loaded) == expected


def test_a_second_push_replaces_shards_in_one_commit_and_leaves_what_is_not_of_a_build(built, hub, tmp_path):
    push_built(built, "me/set")
    api = pushing.HfApi()
    for path in ("data/own/train-00001-of-00002.parquet", "notes.txt"):
        api.upload_file(path_or_fileobj=b"old", path_in_repo=path, repo_id="me/set", repo_type="dataset")
    before = len(hub.history("datasets/me/set"))
    write_folder(tmp_path / "own", count=10, seed=1, targets=("breast lesion",), size=(64, 64))
    build([Download("folder", tmp_path / "own")], tmp_path / "set", partial(divide, seed=0))
    push_built(tmp_path / "set", "me/set")
    assert hub.files("datasets/me/set") == {**contents(tmp_path / "set"), "notes.txt": b"old"}
    assert len(hub.history("datasets/me/set")) == before + 1


def test_a_push_that_breaks_leaves_the_repository_as_it_was(built, hub):
    push_built(built, "me/set")
    before = hub.files("datasets/me/set")
    pushing.HfApi().delete_file("build.json", repo_id="me/set", repo_type="dataset")
    hub.drop_commits["datasets/me/set"] = "before"
    with pytest.raises(ConnectionError, match="push again"):
        push_built(built, "me/set")
    left = hub.files("datasets/me/set")
    assert left == {path: content for path, content in before.items() if path != "build.json"}
    hub.mend()
    push_built(built, "me/set")
    assert hub.files("datasets/me/set") == before


def test_sources_that_may_not_be_passed_on_become_public_only_on_the_callers_word(built, hub, public):
    with pytest.raises(PermissionError, match="Push to a private repository"):
        push_built(built, "me/set", private=False)
    assert "datasets/me/set" not in hub.repositories
    with pytest.raises(PermissionError, match="me/public is public.*say that you checked the licences"):
        push_built(built, public)
    assert hub.files("datasets/me/public") == {}
    push_built(built, public, private=False, licences_checked=True)
    assert hub.files("datasets/me/public") == contents(built)


def test_a_public_repository_takes_only_what_is_meant_to_be_public(built, hub, public):
    with pytest.raises(PermissionError, match="me/public is public.*it may be public"):
        push_built(built, public, licences_checked=True)
    assert hub.files("datasets/me/public") == {}


def test_the_files_are_those_of_the_build(built, tmp_path):
    files = files_of(built)
    assert list(files) == [
        "README.md",
        "build.json",
        *(f"data/own/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")),
        "splits.json",
    ]
    assert all(files[path] == (built / path).stat().st_size for path in files)
    with pytest.raises(ValueError, match="has no build.json"):
        push_built(tmp_path, "me/set")
