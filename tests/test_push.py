"""A built data set to the Hub: what goes up, what stays private, and who may publish."""

from functools import partial
from types import SimpleNamespace

import pytest

import ccsam_hf.data.push as pushing
from ccsam_hf.data.build import Download, build
from ccsam_hf.data.push import files_of, push_built
from ccsam_hf.data.simulator import write_folder
from ccsam_hf.data.splits import divide


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("push")
    write_folder(directory / "own", count=10, seed=0, targets=("breast lesion",), size=(64, 64))
    build([Download("folder", directory / "own")], directory / "set", partial(divide, seed=0))
    return directory / "set"


class Hub:
    """Records the calls that reach the Hub."""

    def __init__(self, private: bool):
        self.private, self.calls = private, []

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))

    def repo_info(self, repo_id, **options):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, **options):
        self.calls.append(("upload_folder", options["repo_id"], options))
        return "https://huggingface.co/datasets/me/set/commit/abc"


@pytest.fixture
def hub(monkeypatch):
    def connect(private: bool) -> Hub:
        found = Hub(private)
        monkeypatch.setattr(pushing, "HfApi", lambda: found)
        return found

    return connect


def test_a_push_makes_a_private_data_set_and_uploads_the_folder_in_one_commit(built, hub):
    api = hub(private=True)
    assert push_built(built, "me/set") == "https://huggingface.co/datasets/me/set/commit/abc"
    (created, name, options), (uploaded, _, upload) = api.calls
    assert (created, name, options["repo_type"], options["private"]) == ("create_repo", "me/set", "dataset", True)
    assert uploaded == "upload_folder" and upload["folder_path"] == built and upload["repo_type"] == "dataset"
    assert upload["delete_patterns"] == "data/**"  # shards of an older build do not stay


def test_sources_that_may_not_be_passed_on_become_public_only_on_the_callers_word(built, hub):
    api = hub(private=False)
    with pytest.raises(PermissionError, match="Push to a private repository"):
        push_built(built, "me/set", private=False)
    assert api.calls == []  # no repository is made
    with pytest.raises(PermissionError, match="me/set is public"):
        push_built(built, "me/set")
    assert [call[0] for call in api.calls] == ["create_repo"]
    push_built(built, "me/set", private=False, licences_checked=True)
    assert api.calls[-1][0] == "upload_folder" and api.calls[-2][2]["private"] is False


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
