"""A checkpoint goes to a Hub on 127.0.0.1 as users send and load it: own processes, over HTTP, whole or not at all."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ccsam_hf import (
    TINY,
    TINY_GROUNDER,
    CCSamConfig,
    CCSamImageProcessor,
    CCSamModel,
    CCSamPipeline,
    CCSamProcessor,
)
from ccsam_hf.cli.main import main
from ccsam_hf.hub.push import bytes_of, is_stale, push_checkpoint, repository_files, repository_url
from hub_server import READ_TOKEN, STRANGERS_TOKEN, WRITE_TOKEN, Hub, card_errors, environment, serve
from small_grounder import small_grounder
from test_import_order import PACKAGE, files_of_the_hub_copy
from without_the_package import WITHOUT_THE_PACKAGE

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = PACKAGE / "assets" / "example"
BOXES = [[40.0, 50.0, 120.0, 160.0], [10.0, 20.0, 200.0, 90.0]]
CARD = """---
license: other
license_name: of-this-test
library_name: transformers
pipeline_tag: mask-generation
tags: [ultrasound]
---

# A checkpoint

For research. Not a medical device.
"""


def write_checkpoint(folder: Path, seed: int = 0, max_shard_size: str = "50GB", tuned_on: str | None = None) -> Path:
    """A small model with random weights, a processor and a card; with `tuned_on` a grounder that says so."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CCSamModel(CCSamConfig.tiny())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    if tuned_on is not None:
        grounder = small_grounder()
        grounder.settings.tuned_on = tuned_on
        grounder.settings.box_threshold = 0.0
        grounder.save_pretrained(folder / "grounder")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("written") / "checkpoint", tuned_on="a test")


@pytest.fixture
def checkpoint(written, tmp_path) -> Path:
    """A folder that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "checkpoint"))


@pytest.fixture
def hub(tmp_path):
    with serve(tmp_path / "hub") as running:
        yield running


def start(code: str, *arguments: str, hub: Hub, home: Path, token: str | None = WRITE_TOKEN) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment(hub, home, token),
        cwd=hub.blobs.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, *arguments: str, hub: Hub, home: Path, token: str | None = WRITE_TOKEN) -> str:
    """What a process printed; it has to end well."""
    process = start(code, *arguments, hub=hub, home=home, token=token)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


# Several commands one after the other in one process, which otherwise would take its time to import each time.
COMMANDS = """
import contextlib, io, json, os, sys
from ccsam_hf.cli.main import main

results = []
for variables, argv in json.loads(sys.argv[1]):
    os.environ.update(variables)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(argv)
    results.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


def commands(*lines: list[str], hub: Hub, home: Path, tokens: list[str] | None = None) -> list[tuple[int, str, str]]:
    """Status, output and errors of `ccsam-hf push` for each line of arguments, with its token where some are given."""
    variables = [{"HF_TOKEN": token} for token in tokens or [WRITE_TOKEN] * len(lines)]
    argv = [["push", *map(str, line)] for line in lines]
    return json.loads(run(COMMANDS, json.dumps(list(zip(variables, argv, strict=True))), hub=hub, home=home))


LOAD = (
    WITHOUT_THE_PACKAGE
    + """
import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

torch.set_num_threads(1)
repository, given, got = sys.argv[1:]
assert AutoConfig.from_pretrained(repository, trust_remote_code=True).model_type == "ccsam"
model, report = AutoModel.from_pretrained(repository, trust_remote_code=True, output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
assert "transformers_modules" in type(model).__module__
processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
given = torch.load(given, weights_only=True)
inputs = processor(given["image"].numpy(), input_boxes=given["boxes"].tolist(), return_tensors="pt")
inputs.pop("original_sizes")
with torch.no_grad():
    output = model.eval()(**inputs)
torch.save({"state": model.state_dict(), "pred_masks": output.pred_masks, "iou_scores": output.iou_scores}, got)
"""
)


def assert_loads_equal_without_the_package(repo_id: str, folder: Path, hub: Hub, tmp_path: Path) -> None:
    """A process without ccsam_hf loads the repository: the same tensors, the same masks as the folder gives here."""
    given, got = tmp_path / "given.pt", tmp_path / "got.pt"
    image, boxes = torch.randint(0, 256, (200, 240, 3), dtype=torch.uint8), torch.tensor([BOXES])
    torch.save({"image": image, "boxes": boxes}, given)
    run(LOAD, repo_id, str(given), str(got), hub=hub, home=tmp_path / "load")
    loaded = torch.load(got, weights_only=True)
    model = CCSamModel.from_pretrained(folder).eval()
    inputs = CCSamProcessor.from_pretrained(folder)(image.numpy(), input_boxes=boxes, return_tensors="pt")
    inputs.pop("original_sizes")
    with torch.no_grad():
        expected = model(**inputs)
    assert loaded["state"].keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded["state"][name], tensor), name
    for name in ("pred_masks", "iou_scores"):
        torch.testing.assert_close(loaded[name], expected[name], rtol=0, atol=1e-6)


def contents_of(folder: Path, repo_id: str | None = None) -> dict[str, bytes]:
    return {path: bytes_of(content) for path, content in repository_files(folder, repo_id).contents.items()}


# --- what goes up ----------------------------------------------------------------------------------------------------


def test_the_bundled_checkpoint_goes_up_with_what_it_lacks():
    found = repository_files(TINY)
    code = [f"{name}.py" for name in files_of_the_hub_copy()]
    beside = ["LICENSE", "README.md", "config.json", "model.safetensors", "processor_config.json", "training.json"]
    grounder = sorted(f"grounder/{path.name}" for path in Path(TINY_GROUNDER).iterdir())
    example = ["example/case.json", "example/image.png", "example/mask.png"]
    records = [name for name in ("evaluation.json",) if (Path(TINY) / name).is_file()]
    assert list(found.contents) == sorted([*code, *beside, *grounder, *example, *records])
    assert not found.left_out
    own = {path: content for path, content in found.contents.items() if isinstance(content, Path)}
    assert own["model.safetensors"] == Path(TINY) / "model.safetensors"  # weights are never written anew
    assert own["grounder/model.safetensors"] == Path(TINY_GROUNDER) / "model.safetensors"
    assert found.sizes == {path: len(bytes_of(content)) for path, content in found.contents.items()}
    for name in code:
        assert found.contents[name] == (PACKAGE / name).read_bytes()
    assert found.contents["LICENSE"] == (REPOSITORY / "LICENSE").read_bytes()
    assert found.contents["example/image.png"] == (EXAMPLE / "image.png").read_bytes()


def test_config_and_processor_point_to_the_code_and_are_else_as_they_were():
    contents = contents_of(Path(TINY))
    config = json.loads(contents["config.json"])
    assert config.pop("auto_map") == {
        "AutoConfig": "configuration_ccsam.CCSamConfig",
        "AutoModel": "modeling_ccsam.CCSamModel",
    }
    assert config.pop("custom_pipelines")["mask-generation"]["impl"] == "pipeline_ccsam.CCSamPipeline"
    assert config == json.loads((Path(TINY) / "config.json").read_text())
    processor = json.loads(contents["processor_config.json"])
    assert processor.pop("auto_map") == {"AutoProcessor": "processing_ccsam.CCSamProcessor"}
    assert processor["image_processor"].pop("auto_map")["AutoImageProcessor"].endswith(".CCSamImageProcessor")
    assert processor == json.loads((Path(TINY) / "processor_config.json").read_text())


def test_a_folder_that_the_pipeline_saved_goes_up_byte_for_byte(tmp_path, checkpoint):
    folder = tmp_path / "saved"
    CCSamPipeline.from_pretrained(checkpoint).save_pretrained(folder, max_shard_size="1MB")
    (folder / "README.md").write_text(CARD)
    contents = contents_of(folder)
    saved = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert sum(path.endswith(".safetensors") for path in saved) > 2 and "grounder/tokenizer.json" in saved
    assert {path: contents[path] for path in saved} == saved
    added = {"LICENSE", "example/case.json", "example/image.png", "example/mask.png"}
    assert contents.keys() - saved.keys() == added


def test_code_of_another_repository_is_no_longer_pointed_to(checkpoint):
    others = {key: f"somebody/else--other.{key}" for key in ("AutoConfig", "AutoModel", "AutoModelForOther")}
    edit_json(checkpoint / "config.json", auto_map=others)
    edit_json(checkpoint / "processor_config.json", auto_map={"AutoProcessor": "somebody/else--other.Processor"})
    contents = contents_of(checkpoint)
    assert b"somebody" not in contents["config.json"] and b"somebody" not in contents["processor_config.json"]
    assert json.loads(contents["config.json"])["auto_map"].keys() == {"AutoConfig", "AutoModel"}


def test_what_does_not_go_up_is_named(checkpoint):
    for path in (".env", "notes.txt", "runs/log.jsonl", "cases.csv", "model-00001-of-00002.safetensors"):
        (checkpoint / path).parent.mkdir(exist_ok=True)
        (checkpoint / path).write_text("private")
    (checkpoint / ".git").mkdir()
    (checkpoint / ".git" / "index.pt").write_text("not looked at")
    (checkpoint / "fusion.py").write_text("# an older version\n")
    found = repository_files(checkpoint)
    other = "no part of a model repository"
    assert found.left_out == {
        ".env": "hidden",
        ".git/index.pt": "hidden",
        "notes.txt": other,
        "runs/log.jsonl": other,
        "cases.csv": other,
        "model-00001-of-00002.safetensors": other,
        "fusion.py": "the installed ccsam-hf has another version, which goes up instead",
    }
    assert not found.contents.keys() & (found.left_out.keys() - {"fusion.py"})
    assert found.contents["fusion.py"] == (PACKAGE / "fusion.py").read_bytes()


def test_records_and_a_licence_of_its_own_go_up(checkpoint):
    for name in ("training.json", "results.json", "evaluation.json", "splits.json", "conversion_report.json"):
        (checkpoint / name).write_text("{}")
    (checkpoint / "LICENSE.txt").write_text("only for my group")
    contents = contents_of(checkpoint)
    assert contents["results.json"] == contents["splits.json"] == contents["conversion_report.json"] == b"{}"
    assert contents["LICENSE.txt"] == b"only for my group" and "LICENSE" not in contents


def test_a_folder_without_a_card_gets_one(checkpoint):
    (checkpoint / "README.md").unlink()
    card = contents_of(checkpoint, "me/mine")["README.md"].decode()
    assert not card_errors(card) and "me/mine" in card and "medical device" in card.lower()
    shutil.copy(checkpoint / "config.json", checkpoint / "grounder" / "README.md")  # a card of its own is not judged
    assert "grounder/README.md" in contents_of(checkpoint)


def test_a_grounder_goes_up_alone(checkpoint):
    grounder = checkpoint / "grounder"
    contents = contents_of(grounder)
    saved = {path.name: path.read_bytes() for path in grounder.iterdir()}
    assert {path: contents[path] for path in saved} == saved
    assert contents.keys() - saved.keys() == {"README.md"}
    assert "pipeline_tag: zero-shot-object-detection" in contents["README.md"].decode()


def edit_json(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder: Path, edit) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


REFUSALS = {
    "no config": (lambda folder: (folder / "config.json").unlink(), FileNotFoundError, "has no config.json"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), ValueError, "cannot be read as JSON"),
    "another model": (lambda f: edit_json(f / "config.json", model_type="bert"), ValueError, "model type 'bert'"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), OSError, "no file named model.safetensors"),
    "missing": (
        lambda folder: edit_weights(folder, lambda weights: weights.pop("fusion.output.weight")),
        ValueError,
        "lacks 1 tensors .fusion.output.weight",
    ),
    "unexpected": (
        lambda folder: edit_weights(folder, lambda weights: weights.update(optimizer=torch.zeros(2))),
        ValueError,
        "unknown to the model, 1 tensors .optimizer",
    ),
    "shape": (
        lambda folder: edit_weights(folder, lambda weights: weights.update({"fusion.output.weight": torch.zeros(3)})),
        ValueError,
        "in another shape 1 tensors .fusion.output.weight",
    ),
    "cut off": (
        lambda folder: os.truncate(folder / "model.safetensors", 200_000),
        ValueError,
        "checkpoint cannot be read",
    ),
    "pickle": (lambda folder: (folder / "optimizer.pt").touch(), ValueError, "holds optimizer.pt, pickled files"),
    "deep pickle": (lambda f: (f / "grounder" / "a.BIN").touch(), ValueError, "holds grounder/a.BIN, pickled files"),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), FileNotFoundError, "the processor's settings"),
    "grounder without tokenizer": (
        lambda folder: [path.unlink() for path in (folder / "grounder").glob("tokenizer*")],
        FileNotFoundError,
        "grounder has none of tokenizer.json",
    ),
    "grounder cut off": (
        lambda folder: os.truncate(folder / "grounder" / "model.safetensors", 30_000),
        ValueError,
        "grounder cannot be read",
    ),
    "no licence": (
        lambda folder: (folder / "README.md").write_text(CARD.replace("license: other\n", "")),
        ValueError,
        "README.md: .*license is None",
    ),
    "no front matter": (lambda f: (f / "README.md").write_text("# mine\n"), ValueError, "README.md: .*front matter"),
    "no YAML": (
        lambda folder: (folder / "README.md").write_text("---\nlicense: [mit\n---\n"),
        ValueError,
        "README.md: .*front matter",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_complete_checkpoint_is_refused(name, checkpoint, capsys):
    spoil, error, message = REFUSALS[name]
    spoil(checkpoint)
    with pytest.raises(error, match=message):
        repository_files(checkpoint)
    capsys.readouterr()
    assert main(["push", "--model", str(checkpoint), "--repo-id", "me/x", "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("ccsam-hf: ") and captured.err.count("\n") == 1


def test_a_shard_that_is_missing_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "sharded", max_shard_size="1MB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(OSError, match=shard.name):
        repository_files(folder)


def test_a_processor_of_another_size_is_refused(checkpoint):
    CCSamProcessor(CCSamImageProcessor(size={"height": 128, "width": 128})).save_pretrained(checkpoint)
    with pytest.raises(ValueError, match=r"makes inputs of \(128, 128\)"):
        repository_files(checkpoint)


@pytest.mark.parametrize(
    ("repo_id", "message"), [("mine", "names no owner"), ("a/b/c", "repo"), ("me/x y", "x y"), ("me/", "Repo id")]
)
def test_a_name_that_is_none_is_refused(repo_id, message, capsys):
    with pytest.raises(ValueError, match=message):
        repository_url(repo_id)
    assert main(["push", "--repo-id", repo_id, "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        push_checkpoint(TINY, repo_id)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        repository_files(tmp_path / "absent")


def test_without_a_network_one_line_says_so(capsys):
    assert main(["push", "--repo-id", "me/x"]) == 2  # conftest switches huggingface_hub off
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "offline mode is enabled" in captured.err


def test_files_of_an_earlier_push_that_would_be_read_are_stale():
    read = ("model.safetensors", "model-00001-of-00003.safetensors", "model.safetensors.index.json", "results.json")
    assert all(map(is_stale, (*read, "adapter_config.json", "preprocessor_config.json", "grounder/config.json")))
    kept = (".gitattributes", "README.md", "handler.py", "assets/figure.png", "other/model.safetensors")
    assert not any(map(is_stale, kept))


# --- up and down over HTTP -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dry_run_shows_what_then_goes_up_and_loads_without_the_package(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", max_shard_size="1MB", tuned_on="a test")
    (folder / "notes.txt").write_text("mine")
    model = ["--model", folder, "--repo-id", "me/tiny"]
    dry, public = commands([*model, "--dry-run"], [*model, "--public", "--dry-run"], hub=hub, home=tmp_path / "dry")
    assert hub.requests == [] and dry[0] == public[0] == 0 and dry[2] == ""
    lines = dry[1].splitlines()
    assert lines[0] == "left out: notes.txt (no part of a model repository)"
    shown = {path: int(size.replace(",", "")) for size, path in (line.split(maxsplit=1) for line in lines[1:-1])}
    total, summary = lines[-1].split(maxsplit=1)
    assert int(total.replace(",", "")) == sum(shown.values())
    assert summary == f"bytes in {len(shown)} files would go to {hub.url}/me/tiny/tree/main (private)"
    assert public[1].splitlines()[-1].endswith("(public)")

    ((status, out, err),) = commands([*model, "--tag", "v1"], hub=hub, home=tmp_path / "push")
    assert status == 0, err
    repository = hub.repositories["me/tiny"]
    assert repository.private and hub.created[0]["visibility"] == "private"
    assert hub.history("me/tiny") == ["Upload a checkpoint with ccsam-hf", "initial commit"]  # one commit
    assert repository.tags == {"v1": repository.branches["main"]}
    assert f"uploaded to {hub.url}/me/tiny/commit/{repository.tags['v1']}\n" in out
    assert f'from_pretrained("me/tiny", revision="{repository.tags["v1"]}")' in out
    there = hub.files("me/tiny")
    assert there == contents_of(folder)
    assert {path: len(content) for path, content in there.items()} == shown
    assert sum(path.endswith(".safetensors") and "/" not in path for path in there) > 3

    assert_loads_equal_without_the_package("me/tiny", folder, hub, tmp_path)
    assert hub.unknown == []  # the server spoke all that was asked for
    down = tmp_path / "down"
    code = "import sys; from huggingface_hub import snapshot_download as get; get('me/tiny', local_dir=sys.argv[1])"
    run(code, str(down), hub=hub, home=tmp_path / "snapshot")
    assert {path: (down / path).read_bytes() for path in there} == there
    process = start(code, str(tmp_path / "none"), hub=hub, home=tmp_path / "stranger", token=None)
    assert "RepositoryNotFoundError" in process.communicate()[1]  # private


PIPELINES = """
import json, sys
from ccsam_hf import CCSamPipeline

rows = []
for revision in json.loads(sys.argv[1]):
    pipe = CCSamPipeline.from_pretrained("me/versions", revision=revision)
    (box,) = pipe(sys.argv[2], boxes=[[60, 60, 180, 160]])
    (text,) = pipe(sys.argv[2], text="breast lesion")
    rows.append([box.score, text.tuned_on, text.score, text.box])
print(json.dumps(rows))
"""

PIPELINES_OF_TRANSFORMERS = (
    WITHOUT_THE_PACKAGE
    + """
import json
from transformers import pipeline

rows = []
for revision in json.loads(sys.argv[1]):
    pipe = pipeline("ultrasound-segmentation", model="me/versions", revision=revision, trust_remote_code=True)
    (box,) = pipe(sys.argv[2], boxes=[[60, 60, 180, 160]])
    (text,) = pipe(sys.argv[2], text="breast lesion")
    rows.append([box.score, text.tuned_on, text.score, text.box])
print(json.dumps(rows))
"""
)


@pytest.mark.slow
def test_a_version_stays_what_it_was_with_its_grounder(hub, tmp_path):
    first = write_checkpoint(tmp_path / "first", seed=1, max_shard_size="1MB", tuned_on="first")
    second = write_checkpoint(tmp_path / "second", seed=2, tuned_on="second")
    (first / "results.json").write_text("{}")
    to = ["--repo-id", "me/versions"]
    (pushed,) = commands(["--model", first, *to, "--tag", "v1"], hub=hub, home=tmp_path / "push")
    assert pushed[0] == 0, pushed[2]
    repository = hub.repositories["me/versions"]
    own = hub.store(b"my figure")
    earlier = repository.commits[repository.branches["main"]].files
    hub.add_commit(repository, "main", "by hand", {**earlier, "figure.png": own})
    again, same, branch = commands(
        ["--model", second, *to, "--tag", "v2"],
        ["--model", second, *to],
        ["--model", first, *to, "--revision", "trial"],
        hub=hub,
        home=tmp_path / "push",
    )
    assert [again[0], same[0], branch[0]] == [0, 0, 0], (again, same, branch)
    # Shards, their index and results of the first version are gone, what somebody added is not.
    assert hub.files("me/versions") == {**contents_of(second), "figure.png": b"my figure"}
    assert hub.files("me/versions", "v1") == contents_of(first)
    assert len(hub.history("me/versions")) == 4  # nothing changed, so no commit
    assert repository.tags["v2"] == repository.branches["main"] and repository.tags["v2"] in same[1]
    assert hub.files("me/versions", "trial") == {**contents_of(first), "figure.png": b"my figure"}

    image = str(EXAMPLE / "image.png")
    expected = []
    for folder, name in ((first, "first"), (second, "second")):
        pipe = CCSamPipeline.from_pretrained(folder)
        (box,), (text,) = pipe(image, boxes=[[60, 60, 180, 160]]), pipe(image, text="breast lesion")
        expected.append([pytest.approx(box.score), name, pytest.approx(text.score), pytest.approx(list(text.box))])
    assert expected[0] != expected[1]
    revisions = ["v1", repository.tags["v2"], "main", repository.tags["v1"]]
    for code in (PIPELINES, PIPELINES_OF_TRANSFORMERS):
        rows = json.loads(run(code, json.dumps(revisions), image, hub=hub, home=tmp_path / "pipelines"))
        assert rows == [expected[0], expected[1], expected[1], expected[0]]


LATE_TEXT = """
import os, sys
from ccsam_hf import CCSamPipeline
from ccsam_hf.cli.main import main

token = os.environ["HF_TOKEN"]
pipe = CCSamPipeline.from_pretrained("me/late", cache_dir=sys.argv[1], token=token)
assert main(["push", "--model", sys.argv[2], "--repo-id", "me/late"]) == 0
os.environ["HF_TOKEN"] = "none that the Hub knows"
again = CCSamPipeline.from_pretrained("me/late", cache_dir=sys.argv[1], token=token)
print(*(one(sys.argv[3], text="breast lesion")[0].tuned_on for one in (pipe, again)), sep="\\n")
"""


@pytest.mark.slow
def test_the_grounder_is_that_of_the_models_commit_though_it_is_loaded_later(hub, tmp_path):
    folders = [write_checkpoint(tmp_path / name, seed=1, tuned_on=name) for name in ("first", "second")]
    (pushed,) = commands(["--model", folders[0], "--repo-id", "me/late"], hub=hub, home=tmp_path / "push")
    assert pushed[0] == 0, pushed[2]
    arguments = (str(tmp_path / "cache"), str(folders[1]), str(EXAMPLE / "image.png"))
    printed = run(LATE_TEXT, *arguments, hub=hub, home=tmp_path / "home").splitlines()
    assert printed[-2:] == ["first", "second"]
    assert not list((tmp_path / "home").rglob("*.safetensors"))  # all of it lies in the cache that was named


TRY_TO_LOAD = (
    WITHOUT_THE_PACKAGE
    + """
import json
from transformers import AutoModel

outcomes = []
for repository in sys.argv[1:]:
    try:
        AutoModel.from_pretrained(repository, trust_remote_code=True)
        outcomes.append("loads")
    except Exception as error:
        outcomes.append(f"{type(error).__name__}: {error}")
print(json.dumps(outcomes))
"""
)

PUSH = "import sys; from ccsam_hf.cli.main import main; sys.exit(main(['push', *sys.argv[1:]]))"


def kill_in_the_middle(hub: Hub, home: Path, *arguments: str) -> None:
    """Start a push, wait until two uploads arrived and the third hangs, and end it as a power cut would."""
    hub.mend()
    hub.break_uploads_from, hub.break_how = 3, "hang"
    process = start(PUSH, *map(str, arguments), hub=hub, home=home)
    assert hub.reached.wait(timeout=120), process.communicate()
    until = time.monotonic() + 60
    while hub.arrived < 2 and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    hub.mend()


@pytest.mark.slow
def test_an_interrupted_push_leaves_nothing_that_loads_and_goes_on(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", max_shard_size="4MB")  # as many uploads as run at once
    home = tmp_path / "home"

    def arguments(name: str) -> list[str]:
        return ["--model", str(folder), "--repo-id", f"me/{name}"]

    kill_in_the_middle(hub, home, *arguments("killed"))
    large = {content for path, content in contents_of(folder).items() if path.endswith((".safetensors", ".png"))}
    assert sum(path.read_bytes() in large for path in hub.blobs.iterdir()) == 2 < len(large)
    hub.break_uploads_from, hub.break_how = 2, "drop"  # from here on: huggingface_hub itself tries six times
    (dropped,) = commands(arguments("dropped"), hub=hub, home=home)
    hub.mend()
    hub.drop_commits = {"me/commit-cut": "before", "me/answer-lost": "after"}
    commit_cut, answer_lost = commands(arguments("commit-cut"), arguments("answer-lost"), hub=hub, home=home)
    for name, (status, _, err) in {"dropped": dropped, "commit-cut": commit_cut, "answer-lost": answer_lost}.items():
        last = err.splitlines()[-1]
        assert status == 2 and last.startswith(f"ccsam-hf: the push to me/{name} was interrupted"), err
        assert "push again" in last
    assert hub.files("me/answer-lost") == contents_of(folder)  # complete all the same
    for name in ("killed", "dropped", "commit-cut"):
        assert hub.files(f"me/{name}") == {} and hub.history(f"me/{name}") == ["initial commit"]
    outcomes = json.loads(run(TRY_TO_LOAD, "me/killed", "me/dropped", "me/commit-cut", hub=hub, home=home))
    for outcome in outcomes:
        assert outcome.startswith(("OSError", "ValueError")) and "config.json" in outcome

    hub.mend()
    names = ("killed", "dropped", "commit-cut", "answer-lost")
    for status, _, err in commands(*map(arguments, names), hub=hub, home=home):
        assert status == 0, err
    assert hub.uploads == 0  # all contents had arrived by now, and none is sent twice
    for name in names:
        assert hub.files(f"me/{name}") == contents_of(folder) and len(hub.history(f"me/{name}")) == 2
    outcomes = json.loads(run(TRY_TO_LOAD, *(f"me/{name}" for name in names), hub=hub, home=home))
    assert outcomes == ["loads"] * 4


@pytest.mark.slow
def test_an_interrupted_second_push_leaves_the_first_version(hub, tmp_path):
    first = write_checkpoint(tmp_path / "first", seed=1, tuned_on="first")
    second = write_checkpoint(tmp_path / "second", seed=2, max_shard_size="1MB", tuned_on="second")
    to = ["--repo-id", "me/x"]
    (pushed,) = commands(["--model", first, *to], hub=hub, home=tmp_path / "home")
    assert pushed[0] == 0, pushed[2]
    kill_in_the_middle(hub, tmp_path / "home", "--model", second, *to)
    assert hub.files("me/x") == contents_of(first)
    assert_loads_equal_without_the_package("me/x", first, hub, tmp_path)
    (pushed,) = commands(["--model", second, *to], hub=hub, home=tmp_path / "home")
    assert pushed[0] == 0 and hub.files("me/x") == contents_of(second)


@pytest.mark.slow
def test_who_may_push_and_what_is_public(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint")
    bad_card = write_checkpoint(tmp_path / "bad-card")
    (bad_card / "README.md").write_text(CARD.replace("license: other", "license: mit-0"))
    refused_by_the_hub = write_checkpoint(tmp_path / "refused")
    (refused_by_the_hub / "README.md").write_text(CARD.replace("license: other", "license: gpl-3.0"))

    def arguments(name: str, *more: str, model: Path = folder) -> list[str]:
        return ["--model", str(model), "--repo-id", name, *more]

    lines = {
        "public": (arguments("me/public", "--public"), WRITE_TOKEN, None),
        "public again, not meant": (arguments("me/public"), WRITE_TOKEN, "me/public exists and is public"),
        "public again": (arguments("me/public", "--public", "--tag", "v1"), WRITE_TOKEN, None),
        "tag taken": (arguments("me/public", "--public", "--tag", "v1"), WRITE_TOKEN, "has a tag 'v1' already"),
        "private": (arguments("me/private"), WRITE_TOKEN, None),
        "private stays so": (arguments("me/private", "--public"), WRITE_TOKEN, None),
        "read only": (arguments("me/new"), READ_TOKEN, "may not write to me/new"),
        "read only, exists": (arguments("me/private", "--revision", "b"), READ_TOKEN, "may not write to me/private"),
        "another's": (arguments("me/public", "--public"), STRANGERS_TOKEN, "may not write to me/public"),
        "another's name": (arguments("somebody/new"), WRITE_TOKEN, "may not write to somebody/new"),
        "no such token": (arguments("me/new"), "hf_wrong", "the Hub got no valid token"),
        "no token": (arguments("me/new"), "", "the Hub got no valid token"),
        "bad card": (arguments("me/new", model=bad_card), WRITE_TOKEN, "license is 'mit-0'"),
        "refused card": (arguments("me/new", model=refused_by_the_hub), WRITE_TOKEN, "the Hub refuses the card"),
    }
    results = commands(
        *(line for line, _, _ in lines.values()),
        hub=hub,
        home=tmp_path / "home",
        tokens=[token for _, token, _ in lines.values()],
    )
    for (name, (_, _, message)), (status, _, err) in zip(lines.items(), results, strict=True):
        if message is None:
            assert status == 0, (name, err)
        else:
            assert status == 2 and message in err and err.count("\n") == 1, (name, status, err)
    assert not hub.repositories["me/public"].private and hub.repositories["me/private"].private
    assert hub.repositories.keys() == {"me/public", "me/private"}  # a refusal makes no repository
    assert len(hub.history("me/public")) == 2
    assert hub.unknown == []


@pytest.mark.slow
def test_what_goes_wrong_at_the_end_is_said(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint")
    hub.gitignore = ("model.safetensors",)
    (ignored,) = commands(["--model", folder, "--repo-id", "me/ignored"], hub=hub, home=tmp_path / "home")
    assert ignored[0] == 2 and "model.safetensors did not arrive" in ignored[2] and ".gitignore" in ignored[2]
    hub.mend()

    def meanwhile(repository) -> None:
        hub.before_commit = None
        files = repository.commits[repository.branches["main"]].files
        hub.add_commit(repository, "main", "somebody else's", files)

    hub.before_commit = meanwhile
    (raced,) = commands(["--model", folder, "--repo-id", "me/raced"], hub=hub, home=tmp_path / "home")
    assert raced[0] == 2 and "A commit has happened since" in raced[2]
    assert hub.history("me/raced") == ["somebody else's", "initial commit"]


FROM_PYTHON = """
import sys
from ccsam_hf import CCSamModel, CCSamPipeline, CCSamProcessor

folder = sys.argv[1]
model, processor = CCSamModel.from_pretrained(folder), CCSamProcessor.from_pretrained(folder)
model.push_to_hub("me/parts", max_shard_size="1MB")
processor.push_to_hub("me/parts")
CCSamPipeline.from_pretrained(folder).push_to_hub("me/pipeline")
model.push_to_hub("me/public", private=False)
model.push_to_hub("me/unsaid", private=None)
processor.push_to_hub("me/processor")
"""


@pytest.mark.slow
def test_push_to_hub_of_model_processor_and_pipeline(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", tuned_on="a test")
    run(FROM_PYTHON, str(folder), hub=hub, home=tmp_path / "home")
    private = {name: repository.private for name, repository in hub.repositories.items()}
    given = {"me/parts": True, "me/pipeline": True, "me/public": False, "me/processor": True}
    assert private == {**given, "me/unsaid": False}  # transformers' own default, which says nothing: public
    assert [made["name"] for made in hub.created if "visibility" not in made] == ["unsaid"]
    parts, pipeline = hub.files("me/parts"), hub.files("me/pipeline")
    assert sum(path.endswith(".safetensors") for path in parts) > 1
    assert {"modeling_ccsam.py", "processing_ccsam.py", "processor_config.json"} <= parts.keys()
    assert pipeline["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert "grounder/tokenizer.json" in pipeline and b"custom_pipelines" in pipeline["config.json"]
    for name in ("me/parts", "me/pipeline"):
        assert card_errors(hub.files(name)["README.md"].decode()) == []
        assert_loads_equal_without_the_package(name, folder, hub, tmp_path)


@pytest.mark.slow
def test_the_full_size_model_goes_up_in_shards_and_comes_back(tmp_path):
    folder = tmp_path / "vit-b"
    CCSamModel(CCSamConfig()).save_pretrained(folder, max_shard_size="100MB")
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    shards = {path.name: sha256(path) for path in folder.glob("model-*.safetensors")}
    assert len(shards) > 4 and sum(path.stat().st_size for path in folder.glob("*.safetensors")) > 400 * 10**6
    with serve(tmp_path / "hub", part_size=40 * 10**6) as hub:  # so that the shards go up in parts
        ((status, _, err),) = commands(["--model", folder, "--repo-id", "me/vit-b"], hub=hub, home=tmp_path / "home")
        assert status == 0, err
        files = hub.repositories["me/vit-b"].find("main").files
        assert {name: files[name].sha256 for name in shards} == shards
        assert hub.uploads > 2 * len(shards)
        assert_loads_equal_without_the_package("me/vit-b", folder, hub, tmp_path)
        cached = {path.name: sha256(path) for path in (tmp_path / "load").rglob("snapshots/*/*.safetensors")}
        assert cached == shards
    for large in ("vit-b", "hub", "load", "got.pt"):  # pytest keeps the folders of its last runs
        path = tmp_path / large
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [TINY, TINY_GROUNDER], ids=["ccsam-tiny", "its grounder"])
def test_the_cards_that_come_with_the_package_pass_the_check_of_the_hub(folder):
    assert card_errors((Path(folder) / "README.md").read_text()) == []
    assert card_errors(CARD) == []
    for wrong in ("license: mine", "license: other\nbase_model: a/b/c", "license: [", "license: [mit, other]"):
        assert card_errors(CARD.replace("license: other", wrong)) != [], wrong
