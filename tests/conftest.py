"""Shared fixtures: seeded randomness, the tiny model, and the real cases where they are present."""

import copy
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

# Set before any test module imports huggingface_hub, which reads it once: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_CASES_VARIABLE = "CCSAM_BREAST_ULTRASOUND"

# Under pytest-xdist each worker has a cache of remote code of its own and one thread, as every worker has a core.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("HF_MODULES_CACHE", str(Path(tempfile.gettempdir()) / f"ccsam-hf-modules-{os.getpid()}"))

# The same summation order on machines with many cores; OMP_NUM_THREADS=1 still means one.
torch.set_num_threads(1 if WORKER else min(2, torch.get_num_threads()))


def pytest_collection_modifyitems(items):
    """Skip what is marked `gpu` where torch sees no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch.cuda.is_available() is False"))


@pytest.fixture(autouse=True)
def seeded_torch():
    """Start every test from the same torch seed, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A freshly seeded numpy generator for synthetic images, masks and prompts."""
    return np.random.default_rng(0)


@pytest.fixture
def tiny_config():
    """`CCSamConfig.tiny()`, new for every test, so that a test may change it."""
    from ccsam_hf import CCSamConfig

    return CCSamConfig.tiny()


@pytest.fixture(scope="session")
def tiny_model_original():
    """The seeded tiny model that `tiny_model` copies; tests take the copy."""
    from ccsam_hf import CCSamConfig, CCSamModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CCSamModel(CCSamConfig.tiny()).eval()


@pytest.fixture
def tiny_model(tiny_model_original):
    """A randomly initialised tiny model in evaluation mode, an own copy for every test."""
    return copy.deepcopy(tiny_model_original)


@pytest.fixture(scope="session")
def breast_ultrasound() -> Path:
    """Folder of real breast cases in BUSI's layout (`BUSI/<benign|malignant|normal>/`), not part of the repository.

    It is looked for beside the repository, in `../shared/breast-ultrasound`, or where CCSAM_BREAST_ULTRASOUND says;
    a variable that points to nothing is an error, an unset one with no folder skips the test.
    """
    named = os.environ.get(REAL_CASES_VARIABLE)
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "breast-ultrasound"
    if (folder / "BUSI").is_dir():
        return folder
    if named:
        raise FileNotFoundError(f"{REAL_CASES_VARIABLE}={named} holds no folder BUSI; correct it or unset it")
    pytest.skip(f"real cases are not in this repository: set {REAL_CASES_VARIABLE} to the folder that holds BUSI/")


@pytest.fixture(scope="session")
def real_ultrasound() -> Path:
    """Folder of real data sets (`BUSI/`, `CAMUS/`, `HC18/`, `CCA/`, `DDTI/`, `NERVE/`), not part of the repository.

    It is looked for beside the repository, in `../shared/real-ultrasound`, or where CCSAM_REAL_ULTRASOUND says; a
    variable that points to nothing is an error, an unset one with no folder skips the test.
    """
    named = os.environ.get("CCSAM_REAL_ULTRASOUND")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "real-ultrasound"
    if (folder / "HC18").is_dir():
        return folder
    if named:
        raise FileNotFoundError(f"CCSAM_REAL_ULTRASOUND={named} holds no folder HC18; correct it or unset it")
    pytest.skip("real data sets are not in this repository: set CCSAM_REAL_ULTRASOUND to the folder that holds HC18/")
