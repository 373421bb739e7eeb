"""A folder that is not there is said at once, and the Hub is asked only where a name can be a repository's."""

import socket
import time

import pytest
from huggingface_hub import constants

from ccsam_hf import CCSamPipeline, TextGrounder
from ccsam_hf.model_places import check_place


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("ccsam_hf.model_places.getproxies", dict)


def test_what_can_be_no_repository_is_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert check_place(tmp_path / "models") == check_place("models") == {}
    for name in ("models/hc19", "./hc19", "/nowhere/hc19", "a/b/c", tmp_path / "hc19"):
        with pytest.raises(FileNotFoundError, match=f"no folder {name}; expected a folder with a model"):
            check_place(name)


def test_a_hub_out_of_reach_is_not_asked_again_and_again(online, monkeypatch, tmp_path):
    with socket.socket() as closed:  # bound and not listening: the port refuses
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        start = time.monotonic()
        for load in (CCSamPipeline.from_pretrained, TextGrounder.from_pretrained):
            with pytest.raises(FileNotFoundError, match="no folder models/hc19; .* the Hub cannot be reached"):
                load("models/hc19", cache_dir=tmp_path)
        assert time.monotonic() - start < 5


def test_a_hub_within_reach_decides_itself(online, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert check_place("owner/name") == {}


def test_without_the_hub_the_cache_answers(online, monkeypatch, tmp_path):
    monkeypatch.setattr("ccsam_hf.model_places.reach_hub", lambda: False)
    commit = "0" * 40
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(commit)
    assert check_place("owner/name", cache_dir=tmp_path) == {"local_files_only": True}
    with pytest.raises(FileNotFoundError, match="the Hub was not to be asked"):
        check_place("owner/other", cache_dir=tmp_path, local_files_only=True)
