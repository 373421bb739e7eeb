"""docs/paper.md names files, definitions and values that exist, for everything that the paper numbers."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

PAGE = Path(__file__).resolve().parents[1] / "docs" / "paper.md"
LINK = re.compile(r"\[`([^`]+)`\]\(([^)]+)\)")
ABSENT = object()  # a definition, or a field without a literal default

NUMBERED = [
    *(f"Section {number}" for number in ("1", "2", "3", "3.1", "3.2", "3.3", "3.4", "4.1", "4.2", "4.3", "4.4", "5")),
    *(f"Eq. ({number})" for number in range(1, 10)),
    *(f"Fig. {number}" for number in range(1, 9)),
    *(f"Table {number}" for number in range(1, 4)),
]


@cache
def definitions(path: Path) -> dict:
    """Dotted names of a Python file, or keys of a YAML file -> their literal values, where they have one."""
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text())
    return names_in(ast.parse(path.read_text()), "")


def names_in(node: ast.Module | ast.ClassDef, prefix: str) -> dict:
    found = {}
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.ClassDef):
            found[prefix + each.name] = ABSENT
            if isinstance(each, ast.ClassDef):
                found |= names_in(each, f"{prefix}{each.name}.")
        elif isinstance(each, ast.Assign | ast.AnnAssign):
            for target in each.targets if isinstance(each, ast.Assign) else [each.target]:
                found[prefix + ast.unparse(target)] = literal(each.value)
    return found


def literal(value: ast.expr | None):
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError):
        return ABSENT


def problem_of(text: str, target: str) -> str | None:
    """What is wrong with a link `file`, `file:name` or `file:name = value`; None where it holds."""
    file, _, rest = text.partition(":")
    name, _, value = rest.partition(" = ")
    path = (PAGE.parent / target).resolve()
    if path.name != file or not path.is_file():
        return f"{text}: no file {target}"
    if name and name not in definitions(path):
        return f"{text}: {file} has no {name}"
    if value and definitions(path)[name] != yaml.safe_load(value):
        return f"{text}: it is {definitions(path)[name]} there"
    return None


def test_every_link_leads_to_what_it_names():
    links = LINK.findall(PAGE.read_text())
    assert len(links) > 60
    assert [problem for problem in (problem_of(*link) for link in links) if problem] == []


@pytest.mark.parametrize(
    ("text", "target", "problem"),
    [
        ("fusion.py:Gaussian.draw", "../src/ccsam_hf/losses.py", "no file"),
        ("fusions.py", "../src/ccsam_hf/fusions.py", "no file"),
        ("fusion.py:Gaussian.sample", "../src/ccsam_hf/fusion.py", "has no Gaussian.sample"),
        ("configuration_ccsam.py:CCSamVAFConfig.latent_dim = 512", "../src/ccsam_hf/configuration_ccsam.py", "1024"),
        ("us30k.yaml:rate", "../training/configs/us30k.yaml", "has no rate"),
        ("us30k.yaml:learning_rate = 0.1", "../training/configs/us30k.yaml", "0.01"),
    ],
)
def test_a_link_that_does_not_hold_is_seen(text, target, problem):
    assert problem in problem_of(text, target)


def test_the_map_covers_all_that_the_paper_numbers():
    rows = [line.split("|")[1:3] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    in_paper = " ".join(row[0] for row in rows)
    missing = [name for name in NUMBERED if not re.search(re.escape(name) + r"(?![.\d]*\d)", in_paper)]
    assert missing == []
