"""CC-SAM for ultrasound: promptable segmentation in the Hugging Face way.

```python
from ccsam_hf import TINY, CCSamPipeline

pipe = CCSamPipeline.from_pretrained(TINY)
results = pipe("case.png", text="breast lesion")
results = pipe("case.png", boxes=[[93, 68, 216, 164]])
```
"""

from importlib.resources import files

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_ccsam import CCSamConfig
from .grounding import GroundingResult, TextGrounder
from .image_processing_ccsam import CCSamImageProcessor
from .modeling_ccsam import CCSamModel, CCSamOutput
from .pipeline_ccsam import GROUNDER_FOLDER, TASK, CCSamPipeline, EncodedImage, SegmentationResult
from .processing_ccsam import CCSamProcessor

TINY: str = str(files(__package__) / "assets" / "ccsam-tiny")
"""Folder of the bundled checkpoint, trained on simulated images only: `CCSamModel.from_pretrained(ccsam_hf.TINY)`."""

TINY_GROUNDER: str = str(files(__package__) / "assets" / "ccsam-tiny" / GROUNDER_FOLDER)
"""Folder of the bundled text grounder, trained on simulated images only; `CCSamPipeline` finds it beside `TINY`."""

AutoConfig.register("ccsam", CCSamConfig)
AutoModel.register(CCSamConfig, CCSamModel)
AutoImageProcessor.register(CCSamConfig, image_processor_classes={"torchvision": CCSamImageProcessor})
AutoProcessor.register(CCSamConfig, CCSamProcessor)
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=CCSamPipeline, pt_model=AutoModel, type="image")

__version__ = "0.1.0"
__all__ = [
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
]
