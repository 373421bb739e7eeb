"""The rules of the Hub for the front matter of a card (`check_card`)."""

import math
import re

from huggingface_hub import ModelCard, ModelCardData, SpaceCard, SpaceCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError

# The Hub's identifiers of licences (hf.co/docs/hub/repositories-licenses), and those of its tasks that fit images.
LICENSES = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
    pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other""".split()
)


VISION_TASKS = frozenset(
    """depth-estimation image-classification object-detection image-segmentation image-to-image video-classification
    zero-shot-image-classification mask-generation zero-shot-object-detection image-feature-extraction
    keypoint-detection""".split()
)


COLORS = frozenset("red yellow green blue indigo purple pink gray".split())
SDKS = frozenset("gradio streamlit docker static".split())
LICENSE_NAME = re.compile(r"[a-z0-9.-]+")
LONGEST_SHORT_DESCRIPTION = 60


def check_card(text: str, repo_type: str = "model") -> ModelCardData | SpaceCardData:
    """Validate a card as far as that goes without the Hub, whose own check needs the network.

    Args:
        text: Markdown with YAML front matter.
        repo_type: "model" or "space".

    Returns:
        The front matter as huggingface_hub reads it, the model index as `eval_results`.

    Raises:
        ValueError: huggingface_hub cannot read it, or it lacks what the Hub shows or names what the Hub does not know;
            the message names everything that is wrong.
    """
    if repo_type not in CARDS:
        raise ValueError(f"repo_type is {repo_type!r}; accepted are {', '.join(CARDS)}")
    if not REGEX_YAML_BLOCK.match(text):
        raise ValueError("the card does not begin with front matter; expected YAML between two lines of ---")
    card_class, problems_of = CARDS[repo_type]
    try:
        data = card_class(text).data
    except (YAMLError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"huggingface_hub cannot read the front matter: {error}") from error
    problems = [*license_problems(data), *problems_of(data)]
    if re.search(r"\{\{ | \}\}|\{%|%\}", text):
        problems.append("a template's signs are left in the text; expected them to be filled in")
    if problems:
        raise ValueError(f"the card is not one for the Hub: {'; '.join(problems)}")
    return data


def license_problems(data: ModelCardData | SpaceCardData) -> list[str]:
    """What is wrong with the licence."""
    if data.license not in LICENSES:
        return [
            f"license is {data.license!r}; expected an identifier of hf.co/docs/hub/repositories-licenses or 'other'"
        ]
    name = data.get("license_name")
    if data.license == "other" and isinstance(data, ModelCardData) and not LICENSE_NAME.fullmatch(str(name or "")):
        return [f"license 'other' came with license_name {name!r}; expected small letters, digits, dots and dashes"]
    return []


def model_problems(data: ModelCardData) -> list[str]:
    """What is wrong with a model's front matter."""
    problems = []
    if data.pipeline_tag not in VISION_TASKS:
        problems.append(f"pipeline_tag is {data.pipeline_tag!r}; expected one of {', '.join(sorted(VISION_TASKS))}")
    if not data.library_name or not data.tags:
        problems.append(f"library_name is {data.library_name!r} and tags are {data.tags}; expected both")
    bases = [data.base_model] if isinstance(data.base_model, str) else data.base_model or []
    for name in [*bases, *(data.datasets or [])]:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            problems.append(str(error))
    for result in data.eval_results or []:
        value = result.metric_value
        if result.task_type not in VISION_TASKS:
            problems.append(f"the model index has the task {result.task_type!r}, which the Hub does not know")
        if not isinstance(value, int | float) or not math.isfinite(value):
            problems.append(f"{result.metric_name!r} is {value!r} in the model index; expected a number")
    return problems


def space_problems(data: SpaceCardData) -> list[str]:
    """What is wrong with a Space's front matter."""
    problems = [
        f"{name} is missing" for name in ("title", "emoji", "app_file", "sdk_version") if not getattr(data, name, None)
    ]
    for name, accepted in (("sdk", SDKS), ("colorFrom", COLORS), ("colorTo", COLORS)):
        if (value := data.get(name)) not in accepted:
            problems.append(f"{name} is {value!r}; expected one of {', '.join(sorted(accepted))}")
    description = data.get("short_description", "")
    if len(description) > LONGEST_SHORT_DESCRIPTION:
        problems.append(f"short_description has {len(description)} characters; at most {LONGEST_SHORT_DESCRIPTION}")
    return problems


CARDS = {"model": (ModelCard, model_problems), "space": (SpaceCard, space_problems)}

__all__ = ["check_card"]
