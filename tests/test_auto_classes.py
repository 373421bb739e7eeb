"""Importing the package is cheap, and transformers finds its classes whichever of the two is imported first."""

import subprocess
import sys

import pytest

import ccsam_hf


def run_python(code: str) -> str:
    """Standard output of code in a process of its own."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_importing_the_package_loads_no_library():
    code = "import sys; before = set(sys.modules); import ccsam_hf; print(sorted(set(sys.modules) - before))"
    roots = {name.split(".")[0] for name in eval(run_python(code))}
    assert roots <= {"ccsam_hf", *sys.stdlib_module_names}


def test_every_public_name_is_listed_and_can_be_loaded():
    for name in ccsam_hf.__all__:
        assert name in dir(ccsam_hf) and getattr(ccsam_hf, name) is not None
    assert set(ccsam_hf.HOME) <= set(ccsam_hf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'CCSamModl'"):
        _ = ccsam_hf.CCSamModl


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import ccsam_hf",
        "import ccsam_hf.adapters",  # transformers' Auto classes are loaded while this file is
        "from transformers import AutoModel, AutoProcessor, pipeline; import ccsam_hf",
    ],
)
def test_transformers_finds_the_classes_in_any_order(first):
    code = f"""{first}
from ccsam_hf import TINY
from transformers import AutoConfig
print(type(AutoConfig.from_pretrained(TINY)))
from transformers import AutoModel
print(type(AutoModel.from_pretrained(TINY)))
from transformers import AutoImageProcessor, AutoProcessor
print(type(AutoImageProcessor.from_pretrained(TINY)), type(AutoProcessor.from_pretrained(TINY)))
"""
    assert run_python(code).count("'ccsam_hf.") == 4


@pytest.mark.slow
def test_transformers_finds_the_pipeline():
    task = "'ultrasound-segmentation'"
    code = f"import ccsam_hf, transformers; print(type(transformers.pipeline({task}, model=ccsam_hf.TINY)))"
    assert "'ccsam_hf." in run_python(code)
