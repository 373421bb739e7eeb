"""What lies beside a model is found from the model's source, and loads in threads leave transformers as it was."""

import copy
import pickle
import shutil
import threading

import pytest
import torch
from transformers import PreTrainedModel

from ccsam_hf import CCSamImageProcessor, CCSamModel, CCSamPipeline, CCSamProcessor, TextGrounder
from ccsam_hf.loading import GROUNDER_FOLDER, ModelSource
from small_grounder import small_grounder


@pytest.fixture(scope="module")
def repository(tmp_path_factory, tiny_model_original):
    """Two models in folders of one repository; the first has a grounder beside it."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("first", "second"):
        tiny_model_original.save_pretrained(root / name)
        CCSamProcessor(CCSamImageProcessor()).save_pretrained(root / name)
    small_grounder().save_pretrained(root / "first" / GROUNDER_FOLDER)
    (root / "first" / GROUNDER_FOLDER / "README.md").write_text("a card")
    return root


def test_a_model_in_a_subfolder_finds_the_grounder_beside_it(repository):
    pipe = CCSamPipeline.from_pretrained(repository, subfolder="first")
    assert pipe.model.source == ModelSource(str(repository), {"subfolder": "first"})
    assert pipe.has_grounder and isinstance(pipe.grounder, TextGrounder)
    other = CCSamPipeline.from_pretrained(repository, subfolder="second")
    assert not other.has_grounder
    with pytest.raises(ValueError, match="has no folder 'grounder' beside its weights"):
        _ = other.grounder


def test_a_model_in_a_folder_of_its_own_finds_the_grounder_beside_it(repository):
    source = ModelSource.of(repository / "first")
    assert source.grounder == ModelSource(str(repository / "first"), {"subfolder": "grounder"})
    assert source.base_model == "first" and ModelSource("somebody/ccsam").base_model == "somebody/ccsam"


def test_all_files_beside_a_model_are_copied(repository, tmp_path):
    ModelSource.of(repository, subfolder="first").grounder.copy_to(tmp_path / "copy")
    names = {path.name for path in (repository / "first" / GROUNDER_FOLDER).iterdir()}
    assert {path.name for path in (tmp_path / "copy").iterdir()} == names and "README.md" in names


def test_files_of_the_hub_are_copied_at_their_commit(repository, tmp_path, monkeypatch):
    calls = []

    def snapshot_download(name, **arguments):
        calls.append((name, arguments))
        return repository

    monkeypatch.setattr("ccsam_hf.loading.snapshot_download", snapshot_download)
    source = ModelSource("somebody/ccsam", {"subfolder": "first/grounder", "revision": "abc", "token": "t"})
    source.copy_to(tmp_path / "copy")
    assert calls == [("somebody/ccsam", {"allow_patterns": "first/grounder/*", "revision": "abc", "token": "t"})]
    assert (tmp_path / "copy" / "config.json").is_file()


def test_a_token_is_neither_shown_nor_pickled():
    source = ModelSource("somebody/ccsam", {"token": "secret", "revision": "abc"})
    assert "secret" not in repr(source) and b"secret" not in pickle.dumps(source)
    assert copy.deepcopy(source) == ModelSource("somebody/ccsam", {"revision": "abc"})


def test_the_grounder_is_loaded_onto_the_device_of_the_pipeline(repository):
    pipe = CCSamPipeline.from_pretrained(repository / "first")
    pipe.device = torch.device("meta")  # stands for a GPU
    assert pipe.grounder.model.device == torch.device("meta")


def test_threads_that_load_at_once_load_whole_models_and_one_grounder(repository, tmp_path):
    before = PreTrainedModel.tie_weights
    shutil.copytree(repository / "first", tmp_path / "first")
    pipe = CCSamPipeline.from_pretrained(tmp_path / "first")
    grounders, missing, failed = [], [], []
    barrier = threading.Barrier(4)

    def load(number: int) -> None:
        barrier.wait()
        try:
            grounders.append(pipe.grounder)
            report = CCSamModel.from_pretrained(repository / "second", output_loading_info=True)[1]
            missing.extend(report["missing_keys"])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and not missing and len({id(each) for each in grounders}) == 1
    assert PreTrainedModel.tie_weights is before
