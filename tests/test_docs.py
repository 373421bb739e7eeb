"""The code and the commands in the documentation run as they stand."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

import ccsam_hf
from ccsam_hf.cli.main import build_parser
from ccsam_hf.data.build import Download, build
from ccsam_hf.data.simulator import write_folder
from ccsam_hf.data.splits import divide

ROOT = Path(__file__).resolve().parents[1]
CARD = Path(ccsam_hf.TINY) / "README.md"
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "training" / "README.md",
    CARD,
    Path(ccsam_hf.TINY_GROUNDER) / "README.md",
]


def python_blocks() -> list:
    """Every fenced Python block of every document, named by document and place."""
    return [
        pytest.param(block, id=f"{path.parent.name}-{path.stem}-{number}")
        for path in DOCUMENTS
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL))
    ]


def commands() -> list[str]:
    """Every line that calls `ccsam-hf`."""
    lines = [line.strip() for path in DOCUMENTS for line in path.read_text().splitlines()]
    return sorted({line.split(" #")[0] for line in lines if line.startswith("ccsam-hf ")})


@pytest.mark.parametrize("block", python_blocks())
def test_python_blocks_run(block, tmp_path, monkeypatch):
    shutil.copy(Path(ccsam_hf.TINY).parent / "example" / "image.png", tmp_path / "case.png")
    monkeypatch.chdir(tmp_path)
    if "data/own" in block:
        write_folder(tmp_path / "own", count=12, seed=0, targets=("breast lesion",), size=(64, 64))
        build([Download("folder", tmp_path / "own")], tmp_path / "data" / "own", divide)
    exec(compile(block, "documentation", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("command", commands())
def test_commands_are_accepted_by_the_parser(command):
    assert build_parser().parse_args(shlex.split(command)[1:]).run


def anchors_of(path: Path) -> set[str]:
    """What a link may name behind "#": the headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_within_the_repository_lead_to_a_file_and_a_heading():
    for path in (
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        ROOT / "hub_cards" / "README.md",
        ROOT / "training" / "README.md",
        ROOT / "CONTRIBUTING.md",
    ):
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", path.read_text()):
            file = path.parent / target if target else path
            assert file.exists(), f"{path.name}: {target}"
            assert not anchor or anchor in anchors_of(file), f"{path.name}: {target}#{anchor}"
