"""Imports inside the package point one way, and a Hub copy of the model files carries everything they import."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "ccsam_hf"

# A file or a room, then what it may import directly; what those may import, it may too. `hub.commit` stands alone,
# because a data set is pushed by it as well. A new file at the top gets its line here, below everything it builds on.
MAY_IMPORT = {
    "files": (),
    "checks": (),
    "identity": (),
    "configuration_ccsam": (),
    "loading": ("configuration_ccsam",),
    "geometry": (),
    "descriptions": ("files",),
    "pixel_spacing": (),
    "dicom_pixels": (),
    "image_files": ("pixel_spacing", "dicom_pixels"),
    "adapters": ("configuration_ccsam", "geometry"),
    "losses": ("configuration_ccsam", "geometry"),
    "fusion": ("adapters", "losses"),
    "vit_branch": ("fusion",),
    "cnn_branch": ("fusion",),
    "prompt_prior": (),
    "encoded": ("fusion", "pixel_spacing"),
    "modeling_ccsam": ("encoded", "loading", "vit_branch", "cnn_branch", "prompt_prior"),
    "image_processing_ccsam": ("geometry",),
    "processing_ccsam": ("image_processing_ccsam",),
    "measurements": ("geometry", "pixel_spacing"),
    "visualization": ("geometry", "image_files"),
    "objects": (),
    "results": ("measurements", "objects", "visualization"),
    "model_places": (),
    "prompts": ("processing_ccsam", "results"),
    "prompt_doubts": (),
    "decoded": ("grounding", "prompt_doubts", "prompts"),
    "grounding_texts": ("descriptions",),
    "grounding_boxes": (),
    "grounding_loading": ("loading", "grounding_texts", "model_places"),
    "grounding": ("grounding_loading", "grounding_boxes", "image_processing_ccsam"),
    "pipeline_ccsam": ("modeling_ccsam", "decoded", "image_files"),
    "auto_classes": ("pipeline_ccsam",),  # only inside functions: importing it must load no library
    "__init__": ("auto_classes",),
    "conversion": ("modeling_ccsam", "processing_ccsam", "grounding", "files", "checks"),
    "formats": ("__init__", "visualization", "files", "checks"),
    "data": (
        "files",
        "checks",
        "geometry",
        "hub.commit",
        "image_files",
        "descriptions",
        "processing_ccsam",
        "visualization",
    ),
    "evaluation": ("data", "pipeline_ccsam", "identity"),
    "hub.commit": (),
    "hub": ("hub.commit", "data", "evaluation"),
    "training": ("conversion", "evaluation", "grounding", "hub"),
    "cli.parser": ("__init__", "checks"),
    "cli": (
        "cli.parser",
        "__init__",
        "conversion",
        "data",
        "evaluation",
        "formats",
        "hub",
        "training",
        "visualization",
    ),
}

# What transformers copies to the Hub starts from these; everything they import goes along.
HUB_ENTRY_FILES = (
    "configuration_ccsam",
    "modeling_ccsam",
    "image_processing_ccsam",
    "processing_ccsam",
    "pipeline_ccsam",
)
HUB_THIRD_PARTY = {"torch", "torchvision", "transformers", "numpy", "PIL", "scipy", "huggingface_hub"}

# Folders beside the package that use it; it never uses them.
USERS_OF_THE_PACKAGE = {"training", "demo", "hub_cards", "tests"}


def source_files() -> list[Path]:
    """Every Python file of the package, relative to it."""
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def step_of(path: Path) -> str:
    """The name in MAY_IMPORT that owns a file: its own stem, the room it lies in, or its place within that room."""
    own = ".".join(path.with_suffix("").parts)
    return own if own in MAY_IMPORT else path.parts[0].removesuffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"), filename=str(path))


@cache
def import_nodes(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """All import statements of a file, those inside functions too."""
    return [node for node in ast.walk(parsed(path)) if isinstance(node, (ast.Import, ast.ImportFrom))]


@cache
def guarded_nodes(path: Path) -> set[int]:
    """Ids of the import statements inside a `try`, which transformers does not require where a copy is loaded."""
    tries = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Try)]
    return {id(node) for each in tries for statement in each.body for node in ast.walk(statement)}


def package_imports(path: Path) -> set[str]:
    """The steps of our own package that a file imports, relative or absolute."""
    found = set()
    for node in import_nodes(path):
        for target in absolute_targets(node, path):
            if target[0] == "ccsam_hf":
                found.add(existing_step(target[1:]))
    return found


def absolute_targets(node: ast.Import | ast.ImportFrom, path: Path) -> list[tuple[str, ...]]:
    """Dotted names that a statement imports, as tuples from the top-level package on."""
    if isinstance(node, ast.Import):
        return [tuple(alias.name.split(".")) for alias in node.names]
    base: tuple[str, ...] = ()
    if node.level:
        folders = ("ccsam_hf", *path.parent.parts)
        base = folders[: len(folders) - (node.level - 1)]
    module = tuple(node.module.split(".")) if node.module else ()
    return [(*base, *module, alias.name) for alias in node.names]


def existing_step(parts: tuple[str, ...]) -> str:
    """The step that a name below the package belongs to; a name that is no file is one of `__init__`'s."""
    first = parts[0] if parts else "__init__"
    if ".".join(parts[:2]) in MAY_IMPORT:
        return ".".join(parts[:2])
    return first if (PACKAGE / f"{first}.py").exists() or (PACKAGE / first).is_dir() else "__init__"


@cache
def allowed_below(step: str) -> frozenset[str]:
    """Everything that a step may import, directly or through what it may import."""
    direct = MAY_IMPORT[step]
    return frozenset(direct).union(*(allowed_below(name) for name in direct))


def files_of_the_hub_copy() -> list[str]:
    """The entry files and, transitively, the siblings they import."""
    waiting, carried = list(HUB_ENTRY_FILES), set()
    while waiting:
        name = waiting.pop()
        if name in carried:
            continue
        carried.add(name)
        if (PACKAGE / f"{name}.py").is_file():  # what is no flat file is named by the test, not by its collection
            waiting.extend(package_imports(Path(f"{name}.py")))
    return sorted(carried)


def test_every_file_has_its_place_in_the_order_and_every_place_its_file():
    assert {step_of(path) for path in source_files()} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", source_files(), ids=str)
def test_a_file_imports_only_what_lies_below_it(path):
    step = step_of(path)
    against_the_order = package_imports(path) - allowed_below(step) - {step}
    assert not against_the_order, (
        f"{path} imports {sorted(against_the_order)}; it may import {sorted(allowed_below(step))}"
    )


@pytest.mark.parametrize("path", source_files(), ids=str)
def test_the_package_never_imports_the_folders_that_use_it(path):
    top_level = {target[0] for node in import_nodes(path) for target in absolute_targets(node, path)}
    assert not top_level & USERS_OF_THE_PACKAGE


@pytest.mark.parametrize("name", files_of_the_hub_copy())
def test_a_hub_copy_carries_what_a_model_file_imports(name):
    """transformers copies the file behind each `from .name import Thing`, and nothing else."""
    path = Path(f"{name}.py")
    assert (PACKAGE / path).is_file(), f"{name} is no flat file: a Hub copy carries neither sub-packages nor __init__"
    for node in import_nodes(path):
        line = f"{path}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, (
                f"{line}: write `from .name import Thing`"
            )
            continue
        if id(node) in guarded_nodes(path):
            continue
        for target in absolute_targets(node, path):
            assert target[0] in HUB_THIRD_PARTY | sys.stdlib_module_names, f"{line}: absent where the copy is loaded"


@pytest.mark.parametrize("name", files_of_the_hub_copy())
def test_no_text_of_a_model_file_reads_like_a_relative_import(name):
    """transformers finds relative imports by a pattern over lines, so one inside a docstring breaks saving."""
    text = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
    by_pattern = re.findall(r"^\s*(?:from\s+\.(\S+)\s+import|import\s+\.(\S+)\s*$)", text, flags=re.MULTILINE)
    by_syntax = [node.module for node in import_nodes(Path(f"{name}.py")) if getattr(node, "level", 0)]
    assert sorted(filter(None, (a or b for a, b in by_pattern))) == sorted(by_syntax)


def test_the_files_that_contributing_names_exist():
    text = (PACKAGE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("### Where is ...?")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z_/]+\.py)`", table)
    assert len(re.findall(r"^\| (?!Question|-)", table, flags=re.MULTILINE)) == 20
    assert [path for path in named if not (PACKAGE / path).is_file()] == []
