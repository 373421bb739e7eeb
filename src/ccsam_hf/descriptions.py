"""Target name -> the text that a grounder reads: a registry of targets, the paper's description, mentions in a text.

Source: CC-SAM paper, Section 3.3, where GPT-4 writes one description with the placeholder [target], which is then
filled in for each data set. Here the description of the paper is a constant, so nothing is asked at run time;
`DescriptionWriter` asks a language model for another one, once per target, where a user wants that.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from .files import write_json

logger = logging.getLogger(__name__)

FORMS = ("phrase", "description")
PLACEHOLDER = "[target]"

# Source: CC-SAM paper, Section 3.3, "Input to GPT-4", word for word ("for to make" is the paper's).
PAPER_INSTRUCTION = (
    "Create a concise description for a medical image analysis task. The task involves using ultrasound images to "
    "segment and identify specific anatomical structures or pathologies. Use [target] for to make a generic "
    "description that can be adapted for any segmentation target."
)

# Source: CC-SAM paper, Section 3.3, "Output from GPT-4", word for word.
PAPER_TEMPLATE = (
    "Segment and identify [target] within ultrasound images. This requires the precise delineation of [target] from "
    "surrounding tissues, enabling accurate diagnosis and assessment. The challenge encompasses dealing with the "
    "inherent variability of ultrasound image quality, including speckle noise, shadowing, and the wide range of "
    "anatomical variations among patients. Success in this task is measured by the algorithm's ability to "
    "consistently and accurately identify and outline the [target], providing crucial information for medical "
    "decision-making processes."
)

TRAILING_PUNCTUATION = " .,;:!?"
REQUEST_TIMEOUT_S = 60.0
NEAR = 0.7  # share of letters in common from which a spelling counts as meant


@dataclass(frozen=True)
class Target:
    """Something that can be outlined in an ultrasound image.

    Attributes:
        name: the noun phrase that stands for it in every text, lower case, singular.
        organ: where it lies, lower case.
        synonyms: other spellings that users type, lower case, singular; none belongs to two targets.
        class_ids: folder of a data set in the US30K archive -> value of this target in that data set's labels; empty
            for targets outside US30K.
    """

    name: str
    organ: str
    synonyms: tuple[str, ...] = ()
    class_ids: Mapping[str, int] = field(default_factory=dict, hash=False)


# Source of the class ids: xianlin7/SAMUS at commit 030ed07, the example of the US30K archive (class.json and the
# split lists). TG3K stands under two folder names there. Labels of two classes are 0 and 1, or 0 and 255 in some
# copies: every value but zero is class 1.
_US30K_TARGETS = (
    Target(
        name="thyroid nodule",
        organ="thyroid",
        synonyms=(
            "nodule of the thyroid",
            "nodule in the thyroid",
            "thyroid lesion",
            "lesion of the thyroid",
            "thyroid mass",
            "thyroid tumor",
            "thyroid tumour",
            "ti-rads nodule",
            "tirads nodule",
        ),
        class_ids={"ThyroidNodule-TN3K": 1, "ThyroidNodule-DDTI": 1},
    ),
    Target(
        name="thyroid gland",
        organ="thyroid",
        synonyms=("thyroid", "thyroid tissue", "thyroid parenchyma", "parenchyma of the thyroid"),
        class_ids={"ThyroidGland-TG3K": 1, "ThyroidNodule-TG3K": 1},
    ),
    Target(
        name="breast lesion",
        organ="breast",
        synonyms=(
            "lesion of the breast",
            "lesion in the breast",
            "breast mass",
            "mass in the breast",
            "breast nodule",
            "breast tumor",
            "breast tumour",
            "tumor of the breast",
            "tumour of the breast",
            "breast cancer",
            "bi-rads lesion",
            "birads lesion",
        ),
        class_ids={"Breast-BUSI": 1, "Breast-UDIAT": 1},
    ),
    Target(
        name="left ventricle",
        organ="heart",
        synonyms=(
            "lv",
            "left ventricular cavity",
            "left ventricle cavity",
            "lv cavity",
            "cavity of the left ventricle",
            "left ventricular endocardium",
            "lv endocardium",
            "left heart ventricle",
        ),
        class_ids={"Echocardiography-CAMUS": 1},
    ),
    Target(
        name="myocardium",
        organ="heart",
        synonyms=(
            "myo",
            "left ventricular myocardium",
            "left ventricle myocardium",
            "lv myocardium",
            "myocardium of the left ventricle",
            "left ventricular wall",
            "left ventricle wall",
            "lv wall",
            "wall of the left ventricle",
            "heart muscle",
            "cardiac muscle",
        ),
        class_ids={"Echocardiography-CAMUS": 2, "Echocardiography-HMCQU": 1},
    ),
    Target(
        name="left atrium",
        organ="heart",
        synonyms=("la", "left atrial cavity", "left atrium cavity", "la cavity", "cavity of the left atrium"),
        class_ids={"Echocardiography-CAMUS": 3},
    ),
)

_FURTHER_TARGETS = (
    Target("right ventricle", "heart", ("rv", "right ventricular cavity", "rv cavity")),
    Target("fetal head", "fetus", ("foetal head", "head of the fetus", "head of the foetus", "fetal skull")),
    Target("pubic symphysis", "pelvis", ("symphysis pubis", "symphysis", "pubic joint")),
    Target("kidney", "kidney", ("kidney outline", "whole kidney")),
    Target("urinary bladder", "bladder", ("bladder", "vesica urinaria")),
    Target("prostate", "prostate", ("prostate gland", "prostatic gland", "whole prostate")),
    Target("liver", "liver", ("liver parenchyma", "hepatic parenchyma", "liver tissue")),
    Target(
        "liver lesion",
        "liver",
        (
            "lesion of the liver",
            "lesion in the liver",
            "focal liver lesion",
            "hepatic lesion",
            "liver mass",
            "hepatic mass",
            "liver nodule",
            "hepatic nodule",
            "liver tumor",
            "liver tumour",
        ),
    ),
    Target("gallbladder", "gallbladder", ("gall bladder", "gall-bladder", "vesica fellea")),
    Target("spleen", "spleen", ("splenic parenchyma", "spleen parenchyma")),
    Target("carotid artery", "neck", ("carotid", "common carotid artery", "common carotid", "cca")),
    Target("carotid plaque", "neck", ("carotid artery plaque", "plaque of the carotid artery")),
    Target("lymph node", "lymph node", ("lymph gland", "lymphatic node")),
    Target("median nerve", "wrist", ("nervus medianus", "median nerve of the wrist", "carpal tunnel nerve")),
    Target("brachial plexus", "neck", ("plexus brachialis", "brachial plexus nerve")),
    Target(
        "ovarian lesion",
        "ovary",
        (
            "lesion of the ovary",
            "ovary lesion",
            "ovarian mass",
            "ovarian tumor",
            "ovarian tumour",
            "adnexal mass",
            "adnexal lesion",
        ),
    ),
    Target("uterine fibroid", "uterus", ("fibroid", "uterine myoma", "uterine leiomyoma", "fibroid of the uterus")),
    Target("appendix", "bowel", ("vermiform appendix", "appendix vermiformis")),
)

TARGETS: dict[str, Target] = {target.name: target for target in _US30K_TARGETS + _FURTHER_TARGETS}


def find_target(text: str) -> Target | None:
    """The registered target that a text names.

    Case, surrounding and repeated space, a leading article ("the", "a", "an"), trailing punctuation and the regular
    plural of the noun do not matter: " The Thyroid Nodules. " and "nodules of the thyroid" are a thyroid nodule.

    Returns:
        The target, or None where the text is neither a name nor a synonym.

    Raises:
        TypeError: the text is not a string.
    """
    return _TARGET_OF_SPELLING.get(re.sub(r"^(the|an|a) ", "", _cleaned(text)))


def nearest_targets(text: str, names: Sequence[str], count: int = 3) -> list[str]:
    """Which of some targets a text may have meant.

    A target is as near as the nearest of its spellings, name and synonyms: by the letters they share in order
    (`difflib`), or by the words; or it lies in the organ that the text names, or in that of the target that it names.

    Args:
        text: what was asked.
        names: targets to choose from, registered or not.
        count: how many at most.

    Returns:
        Names, the nearest first; none where nothing is near.
    """
    asked, named = _cleaned(text), find_target(text)

    def nearness(name: str) -> float:
        target = TARGETS.get(name)
        spellings = (name, *(target.synonyms if target else ()))
        by_letters = max(SequenceMatcher(None, asked, spelling).ratio() for spelling in spellings)
        words = set(asked.split())
        by_words = max(
            len(words & set(spelling.split())) / len(words | set(spelling.split())) for spelling in spellings
        )
        in_organ = target is not None and (
            target.organ in words or (named is not None and named.organ == target.organ)
        )
        return max(by_letters, 1.5 * by_words, NEAR if in_organ else 0.0)

    near = sorted((-nearness(name), name) for name in names)
    return [name for distance, name in near if -distance >= NEAR][:count]


def to_phrase(text: str) -> str:
    """The short noun phrase for the detector.

    Returns:
        The registry's name where `find_target` finds one, else the text itself in lower case, with single spaces and
        without trailing punctuation.

    Raises:
        TypeError: the text is not a string.
        ValueError: the text holds no letter, or "." or "?" inside: the detector separates phrases there.
    """
    phrase = _cleaned(text)
    if not any(character.isalpha() for character in phrase):
        raise ValueError(f"text is {text!r}; expected the name of a target, for instance 'thyroid nodule'")
    if "." in phrase or "?" in phrase:
        raise ValueError(
            f"text is {text!r}; the detector separates phrases at '.' and '?': give several targets as a list, and "
            "write one target without them"
        )
    target = find_target(phrase)
    return target.name if target else phrase


def describe(text: str, form: str = "phrase", template: str = PAPER_TEMPLATE) -> str:
    """The text that a grounder reads for a target.

    Source: CC-SAM paper, Section 3.3. Open there, chosen here: which words stand for [target]; it is `to_phrase`.

    Args:
        text: a name, a synonym, or any free text without "." and "?" inside.
        form: "phrase" for the noun phrase alone, "description" for the template with the phrase filled in.
        template: text with one or several `[target]`; "phrase" does not use it.

    Raises:
        TypeError: the text is not a string.
        ValueError: the form is unknown, the template has no `[target]`, or the text is refused by `to_phrase`.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; accepted are {', '.join(FORMS)}")
    phrase = to_phrase(text)
    if form == "phrase":
        return phrase
    return _filled(template, phrase)


def mention_spans(description: str, phrase: str) -> list[tuple[int, int]]:
    """Where a description mentions a phrase: the grounder scores the tokens of these spans.

    Only whole words count: "nodule" is not mentioned by "nodules", and "mass lesion" not by "non-mass lesion". Case
    does not matter, and any white space of the description, line breaks too, may stand for a space of the phrase.

    Returns:
        At least one (start, end), half open as in slicing, in characters of `description`, from left to right.

    Raises:
        ValueError: the phrase is empty or the description does not mention it.
    """
    words = phrase.split()
    if not words:
        raise ValueError(f"phrase is {phrase!r}; expected at least one word")
    phrase_pattern = r"\s+".join(re.escape(word) for word in words)
    pattern = rf"(?<!\w)(?<!\w-){phrase_pattern}(?!\w)(?!-\w)"
    spans = [match.span() for match in re.finditer(pattern, description, flags=re.IGNORECASE)]
    if not spans:
        raise ValueError(f"the description does not mention {phrase!r} as whole words: {description!r}")
    return spans


class DescriptionWriter:
    """Asks a language model for the description of a target, once; nothing in this package calls it by default.

    The request is the paper's instruction with the target filled in, at temperature 0 and without a seed. Answers are
    kept on disk, one JSON file for each model and instruction, and a kept answer needs neither network nor client.

    Source: CC-SAM paper, Section 3.3, which asks GPT-4 once with the placeholder and fills in the answer. Departure:
    the target is filled in before asking, so that the answer may say what is particular to it; without a language
    model, `describe` fills in the answer that the paper prints.

    Args:
        model: name of the model at the endpoint; without `base_url` a model that Hugging Face's inference providers
            serve.
        base_url: address of any endpoint that speaks OpenAI's chat completions, for instance
            "http://127.0.0.1:8000/v1".
        api_key: key of the endpoint. None sends the stored Hugging Face token to Hugging Face's own providers, and a
            placeholder to a `base_url`, whoever runs it.
        cache_dir: folder of the answers, by default `ccsam/descriptions` in Hugging Face's cache home (HF_HOME).
        client: an object with the `chat_completion` of `huggingface_hub.InferenceClient`, used in place of a new one;
            `base_url` and `api_key` then have no use.

    Raises:
        ValueError: `model` is an address, or neither `model` nor `base_url` is given nor does the client name a model:
            answers of unknown models cannot be told apart.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        cache_dir: str | Path | None = None,
        client: Any = None,
    ):
        if model is not None and model.startswith(("http://", "https://")):
            raise ValueError(f"model is {model!r}; give the address of an endpoint as base_url")
        self.model = model
        self.base_url = base_url
        self.cached_as = model or base_url or getattr(client, "model", None)
        if not self.cached_as:
            raise ValueError("neither model nor base_url is given; name the model that writes, or the endpoint")
        self._api_key = api_key
        self._client = client
        if cache_dir is None:
            from huggingface_hub.constants import HF_HOME

            cache_dir = Path(HF_HOME) / "ccsam" / "descriptions"
        self.cache_dir = Path(cache_dir)

    def __call__(self, target: str) -> str:
        """The description of a target, from the cache or else from the endpoint.

        A damaged cache file is reported as a warning and written anew.

        Args:
            target: a name, a synonym or free text, as for `to_phrase`.

        Returns:
            Text that mentions `to_phrase(target)`, so that `mention_spans` finds it.

        Raises:
            TypeError, ValueError: the target is refused by `to_phrase`.
            RuntimeError: the endpoint fails, or its answer is empty, cut off, or does not mention the target; such an
                answer is not kept.
            OSError: the answer cannot be written to the cache.
        """
        phrase = to_phrase(target)
        instruction = _filled(PAPER_INSTRUCTION, phrase)
        path = self.cache_path(phrase)
        text = self._read_cached(path, phrase, instruction)
        if text is None:
            text = self._ask(phrase, instruction)
            entry = {"model": self.cached_as, "target": phrase, "instruction": instruction, "text": text}
            write_json(path, entry)
        return text

    def cache_path(self, target: str) -> Path:
        """The file that holds, or will hold, the answer for a target."""
        instruction = _filled(PAPER_INSTRUCTION, to_phrase(target))
        key = hashlib.sha256(json.dumps([self.cached_as, instruction]).encode()).hexdigest()
        return self.cache_dir / f"{key}.json"

    def _read_cached(self, path: Path, phrase: str, instruction: str) -> str | None:
        if not path.exists():
            return None
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if (entry["model"], entry["instruction"]) != (self.cached_as, instruction):
                raise ValueError("it belongs to another model or instruction")
            mention_spans(entry["text"], phrase)
        except (ValueError, KeyError, TypeError) as error:  # broken JSON and broken UTF-8 are ValueErrors
            logger.warning("%s is no description of %r and is written anew: %s", path, phrase, error)
            return None
        return entry["text"]

    def _ask(self, phrase: str, instruction: str) -> str:
        endpoint = f"{self.cached_as} at {self.base_url}" if self.model and self.base_url else self.cached_as
        client = self._client or self._new_client()
        try:
            answer = client.chat_completion(
                messages=[{"role": "user", "content": instruction}], model=self.model, temperature=0
            )
            choice = answer.choices[0]
            text, finish_reason = (choice.message.content or "").strip(), choice.finish_reason
        except Exception as error:  # whatever the client, its HTTP library or a malformed answer raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise RuntimeError(
                f"asking {endpoint} for a description of {phrase!r} failed: {reason}. Check model, base_url, api_key "
                f"and the network, or use describe({phrase!r}, form='description'), which asks nobody"
            ) from error
        if not text:
            raise RuntimeError(f"{endpoint} answered with an empty description of {phrase!r}: use another model")
        if finish_reason == "length":
            raise RuntimeError(f"{endpoint} cut its description of {phrase!r} off: {text!r}; raise its output limit")
        try:
            mention_spans(text, phrase)
        except ValueError as error:
            raise RuntimeError(f"{endpoint} answered without naming the target; use another model: {error}") from None
        return text

    def _new_client(self) -> Any:
        from huggingface_hub import InferenceClient

        if self.base_url is None:
            return InferenceClient(api_key=self._api_key, timeout=REQUEST_TIMEOUT_S)
        # Without a key the client would send the user's stored Hugging Face token to whoever runs the endpoint.
        api_key = self._api_key or "unused"
        return InferenceClient(base_url=self.base_url, api_key=api_key, timeout=REQUEST_TIMEOUT_S)


def split_targets(text: str | Sequence[str]) -> list[str]:
    """The targets that a text names, or several texts: commas, semicolons and line breaks stand between them.

    "breast lesion, left ventricle" are two targets, in Python as on the command line and in the demo. What is no
    string comes back as it is.
    """
    texts = [text] if isinstance(text, str) else list(text)
    parts = []
    for each in texts:
        named = [part.strip() for part in re.split(r"[,;\n]", each)] if isinstance(each, str) else [each]
        parts += [part for part in named if part] or [each]
    return parts


def _cleaned(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text has type {type(text).__name__}; expected a string: give several targets one by one")
    return " ".join(text.lower().split()).rstrip(TRAILING_PUNCTUATION)


def _filled(template: str, phrase: str) -> str:
    if PLACEHOLDER not in template:
        raise ValueError(f"the template has no {PLACEHOLDER}, so it cannot name a target: {template!r}")
    return template.replace(PLACEHOLDER, phrase)


def _plural(phrase: str) -> str:
    """Regular plural of the noun: the word before " of " or " in ", else the last one."""
    noun, place = re.fullmatch(r"(.+?)((?: of | in ).+)?", phrase).groups(default="")
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies" + place
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s") + place


_TARGET_OF_SPELLING = {
    spelling: target
    for target in TARGETS.values()
    for singular in (target.name, *target.synonyms)
    for spelling in (singular, _plural(singular))
}

__all__ = [
    "FORMS",
    "PAPER_INSTRUCTION",
    "PAPER_TEMPLATE",
    "TARGETS",
    "DescriptionWriter",
    "Target",
    "describe",
    "find_target",
    "mention_spans",
    "nearest_targets",
    "split_targets",
    "to_phrase",
]
