"""CC-SAM for ultrasound: promptable segmentation in the Hugging Face way.

```python
from ccsam_hf import TINY, CCSamPipeline

results = CCSamPipeline.from_pretrained(TINY)("case.png", boxes=[[93, 68, 216, 164]])
```
"""

from importlib.resources import files

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from .configuration_ccsam import CCSamConfig
from .image_processing_ccsam import CCSamImageProcessor
from .modeling_ccsam import CCSamModel, CCSamOutput
from .pipeline_ccsam import CCSamPipeline, SegmentationResult
from .processing_ccsam import CCSamProcessor

TINY: str = str(files(__package__) / "assets" / "ccsam-tiny")
"""Folder of the bundled checkpoint, trained on simulated images only: `CCSamModel.from_pretrained(ccsam_hf.TINY)`."""

AutoConfig.register("ccsam", CCSamConfig)
AutoModel.register(CCSamConfig, CCSamModel)
AutoImageProcessor.register(CCSamConfig, image_processor_classes={"torchvision": CCSamImageProcessor})
AutoProcessor.register(CCSamConfig, CCSamProcessor)

__version__ = "0.1.0"
__all__ = [
    "TINY",
    "CCSamConfig",
    "CCSamImageProcessor",
    "CCSamModel",
    "CCSamOutput",
    "CCSamPipeline",
    "CCSamProcessor",
    "SegmentationResult",
]
