"""CC-SAM for ultrasound: promptable segmentation in the Hugging Face way.

```python
from ccsam_hf import DEFAULT, CCSamPipeline

pipe = CCSamPipeline.from_pretrained(DEFAULT)
results = pipe("case.png", text="breast lesion")
results = pipe("case.png", boxes=[[93, 68, 216, 164]])
```

Importing the package loads neither torch nor transformers: each public name is loaded when it is first used.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .auto_classes import watch

if TYPE_CHECKING:
    from .configuration_ccsam import CCSamConfig
    from .encoded import EncodedImage
    from .grounding import GroundingResult, TextGrounder
    from .image_processing_ccsam import CCSamImageProcessor
    from .modeling_ccsam import CCSamModel, CCSamOutput
    from .pipeline_ccsam import CCSamPipeline
    from .processing_ccsam import CCSamProcessor
    from .results import SegmentationResult
    from .visualization import overlay

__version__ = "0.1.0"

TINY: str = str(Path(__file__).parent / "assets" / "ccsam-tiny")
"""Folder of the bundled checkpoint, trained on simulated images only: `CCSamModel.from_pretrained(ccsam_hf.TINY)`."""

TINY_GROUNDER: str = str(Path(TINY) / "grounder")
"""Folder of the bundled text grounder, trained on simulated images only; `CCSamPipeline` finds it beside `TINY`."""

DEFAULT: str = str(Path(__file__).parent / "assets" / "ccsam-small")
"""Folder of the bundled checkpoint that learned from real and simulated images; used where no model is named.

Its weights are CC BY-NC-SA 4.0, as CAMUS is; those of `TINY` have no such limit.
"""

HOME = {
    "CCSamConfig": "configuration_ccsam",
    "CCSamImageProcessor": "image_processing_ccsam",
    "CCSamModel": "modeling_ccsam",
    "CCSamOutput": "modeling_ccsam",
    "CCSamPipeline": "pipeline_ccsam",
    "CCSamProcessor": "processing_ccsam",
    "EncodedImage": "encoded",
    "GroundingResult": "grounding",
    "SegmentationResult": "results",
    "TextGrounder": "grounding",
    "overlay": "visualization",
}  # the file of each public name that is loaded on first use

__all__ = [
    "DEFAULT",
    "TINY",
    "TINY_GROUNDER",
    "CCSamConfig",
    "CCSamImageProcessor",
    "CCSamModel",
    "CCSamOutput",
    "CCSamPipeline",
    "CCSamProcessor",
    "EncodedImage",
    "GroundingResult",
    "SegmentationResult",
    "TextGrounder",
    "overlay",
]


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


watch()
