"""The snippets that the Hub prints beside a repository of ours run where the package is not installed."""

import json
import os
import subprocess
import sys

import pytest

from ccsam_hf import TINY, CCSamConfig, CCSamPipeline
from ccsam_hf.configuration_ccsam import PIPELINE_TASKS, PipelineTasks
from ccsam_hf.hub.cards import checkpoint_card
from ccsam_hf.hub.push import bytes_of, repository_files
from test_import_order import PACKAGE
from without_the_package import WITHOUT_THE_PACKAGE

# As the Hub prints them for `pipeline_tag: mask-generation`, `library_name: transformers` and a repository with code;
# and the two calls of our own documentation.
CALLS = [
    'pipeline("mask-generation", model=folder, trust_remote_code=True)',
    "pipeline(model=folder, trust_remote_code=True)",
    'pipeline("ultrasound-segmentation", model=folder, trust_remote_code=True)',
]
SNIPPETS = (
    WITHOUT_THE_PACKAGE
    + """
import json
from transformers import pipeline, AutoModel

folder, image = sys.argv[1:]
areas = []
for call in CALLS:
    pipe = eval(call)
    assert "transformers_modules" in type(pipe).__module__, type(pipe)
    areas.append(pipe(image, boxes=[[93, 68, 216, 164]])[0].measurements.area_px)
pipe.save_pretrained(folder + "-again")  # its configuration keeps the task
config = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype="auto").config
print(json.dumps([areas, list(config.custom_pipelines)]))
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("saved_by", ["push", "save_pretrained"])
def test_the_snippets_of_the_hub_run_without_the_package(tmp_path, saved_by):
    folder = tmp_path / "repository"
    if saved_by == "push":
        for name, content in repository_files(TINY).contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(bytes_of(content))
    else:
        CCSamPipeline.from_pretrained(TINY).save_pretrained(folder)
    image = PACKAGE / "assets" / "example" / "image.png"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    code = SNIPPETS.replace("CALLS", repr(CALLS), 1)
    command = [sys.executable, "-c", code, str(folder), str(image)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    areas, tasks = json.loads(ended.stdout.splitlines()[-1])
    assert len(set(areas)) == 1 and areas[0] > 0 and tasks == ["mask-generation"]
    again = json.loads((tmp_path / "repository-again" / "config.json").read_text())
    assert list(again["custom_pipelines"]) == ["mask-generation"]


def test_the_card_names_what_makes_the_hub_print_them():
    card = checkpoint_card(TINY)
    assert "pipeline_tag: mask-generation\n" in card and "library_name: transformers\n" in card


@pytest.mark.parametrize("written", PIPELINE_TASKS)
def test_one_entry_is_found_under_both_names_also_that_of_older_repositories(written):
    config = CCSamConfig.tiny(custom_pipelines={written: {"impl": "pipeline_ccsam.CCSamPipeline"}})
    tasks = config.custom_pipelines
    assert len(tasks) == 1 and all(tasks[name] == {"impl": "pipeline_ccsam.CCSamPipeline"} for name in PIPELINE_TASKS)
    assert "image-segmentation" not in tasks
    with pytest.raises(KeyError):
        _ = tasks["image-segmentation"]
    assert json.loads(config.to_json_string())["custom_pipelines"] == dict(tasks)
    assert "mask-generation" not in PipelineTasks() and not hasattr(CCSamConfig.tiny(), "custom_pipelines")
