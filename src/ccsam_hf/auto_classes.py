"""Register the package's classes with transformers' Auto classes and pipelines, without importing transformers.

`import ccsam_hf` must stay cheap, and `AutoModel` must find the classes after it. So the import system is watched:
when a module of transformers that owns a registry has been loaded, ours is loaded and registered there. This waits
until the outermost import is complete, because a module that is half loaded cannot be imported from.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_config(owner: ModuleType) -> None:
    """Let AutoConfig find the model type."""
    from .configuration_ccsam import CCSamConfig

    owner.AutoConfig.register("ccsam", CCSamConfig, exist_ok=True)


def register_model(owner: ModuleType) -> None:
    """Let AutoModel find the model."""
    from .modeling_ccsam import CCSamConfig, CCSamModel

    owner.AutoModel.register(CCSamConfig, CCSamModel, exist_ok=True)


def register_image_processor(owner: ModuleType) -> None:
    """Let AutoImageProcessor find the image processor."""
    from .configuration_ccsam import CCSamConfig
    from .image_processing_ccsam import CCSamImageProcessor

    classes = {"torchvision": CCSamImageProcessor}
    owner.AutoImageProcessor.register(CCSamConfig, image_processor_classes=classes, exist_ok=True)


def register_processor(owner: ModuleType) -> None:
    """Let AutoProcessor find the processor."""
    from .configuration_ccsam import CCSamConfig
    from .processing_ccsam import CCSamProcessor

    owner.AutoProcessor.register(CCSamConfig, CCSamProcessor, exist_ok=True)


def register_pipeline(owner: ModuleType) -> None:
    """Let `pipeline(task, ...)` find the pipeline, and a saved one name the task that the Hub prints.

    In this process the Hub's task stays transformers' own, which serves SAM.
    """
    from transformers import AutoModel

    from .configuration_ccsam import PIPELINE_TASKS
    from .pipeline_ccsam import TASK, CCSamPipeline

    owner.PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=CCSamPipeline, pt_model=AutoModel, type="image")
    CCSamPipeline._registered_impl = {PIPELINE_TASKS[0]: CCSamPipeline._registered_impl[TASK]}


# By the module of transformers that owns the registry; an entry leaves once it is done.
PENDING = {
    "transformers.models.auto.configuration_auto": register_config,
    "transformers.models.auto.modeling_auto": register_model,
    "transformers.models.auto.image_processing_auto": register_image_processor,
    "transformers.models.auto.processing_auto": register_processor,
    "transformers.pipelines": register_pipeline,
}


def register_where_loaded() -> None:
    """Register with every module of transformers that is loaded."""
    for name in [name for name in PENDING if name in sys.modules]:
        owner = importlib.import_module(name)  # waits where another thread is loading it
        register = PENDING.pop(name, None)  # before the call: loading our files comes here again
        if register is not None:
            register(owner)


class RegistrationFinder(MetaPathFinder):
    """Finds nothing itself: lets the other finders work, and registers behind the outermost import of a thread."""

    def __init__(self):
        self.running = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that counts and registers."""
        if not PENDING or fullname.partition(".")[0] not in ("transformers", __package__):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((each for each in found if each is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self.execute, spec.loader.exec_module)
        return spec

    def execute(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Run the code of a module; behind the outermost one, register what has been loaded by then."""
        self.running.depth = getattr(self.running, "depth", 0) + 1
        try:
            exec_module(module)
        finally:
            self.running.depth -= 1
        if self.running.depth == 0:
            register_where_loaded()


def watch() -> None:
    """Register now where transformers is loaded already, and else as soon as it is."""
    if not any(isinstance(finder, RegistrationFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegistrationFinder())
    register_where_loaded()


__all__ = ["watch"]
