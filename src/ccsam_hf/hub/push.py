"""A checkpoint's folder -> a model repository on the Hub: what goes up (`repository_files`), in one commit.

Weights go up as they lie there, byte for byte. What a folder lacks is added: the model's code and the entries that
point to it, so that `AutoModel.from_pretrained(..., trust_remote_code=True)` works without this package; the licence
of that code; a card; an example.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..configuration_ccsam import PIPELINE_TASKS
from ..grounding import TextGrounder
from ..loading import GROUNDER_FOLDER, LOAD_LOCK
from ..modeling_ccsam import CCSamModel
from ..pipeline_ccsam import TASK, CCSamPipeline
from ..processing_ccsam import CCSamProcessor
from .commit import commit_files, readable_errors

CARD = "README.md"
CONFIG = "config.json"
EXAMPLE_FOLDER = "example"
LICENCE = "LICENSE"
LICENCES = (LICENCE, "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt")
PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
RECORDS = ("training.json", "results.json", "evaluation.json", "splits.json", "conversion_report.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
# Files of an earlier push that would be read beside, or instead of, those of this one.
STALE = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", *PROCESSOR_FILES, *RECORDS)


@dataclass(frozen=True)
class RepositoryFiles:
    """What a push uploads.

    Args:
        contents: path within the repository -> file on disk, or the content itself where it is made for the push.
        left_out: path within the folder -> why it does not go up.
    """

    contents: dict[str, Path | bytes]
    left_out: dict[str, str]

    @property
    def sizes(self) -> dict[str, int]:
        """Path within the repository -> bytes."""
        return {path: size_of(content) for path, content in self.contents.items()}


def repository_files(model: str | Path, repo_id: str | None = None) -> RepositoryFiles:
    """Say what a push of a checkpoint uploads; reads the folder and no network.

    Args:
        model: folder of a CC-SAM checkpoint, with its grounder where it has one, or of a grounder alone.
        repo_id: where it will be, for a card that has to be written.

    Raises:
        FileNotFoundError: no such folder, or it lacks its config, weights, a shard of them or the processor's files.
        ValueError: not a complete CC-SAM or Grounding DINO checkpoint, pickled files, or a card that
            `card_check.check_card` refuses.
    """
    from .card_check import check_card
    from .cards import checkpoint_card, grounder_card

    folder = Path(model)
    if not folder.is_dir():
        raise FileNotFoundError(f"{model} is no folder; expected that of a checkpoint, as save_pretrained writes it")
    refuse_pickles(folder)
    model_type = read_config(folder).get("model_type")
    if model_type == "ccsam":
        contents, write_card = checkpoint_files(folder), checkpoint_card
        if (folder / GROUNDER_FOLDER).is_dir():
            of_grounder = grounder_files(folder / GROUNDER_FOLDER)
            contents |= {f"{GROUNDER_FOLDER}/{path}": content for path, content in of_grounder.items()}
    elif model_type == "grounding-dino":
        contents, write_card = grounder_files(folder), grounder_card
    else:
        raise ValueError(
            f"{folder / CONFIG} is of model type {model_type!r}; expected 'ccsam', or 'grounding-dino' for a grounder"
        )
    card = bytes_of(contents[CARD]).decode() if CARD in contents else write_card(folder, repo_id=repo_id)
    try:
        check_card(card)
    except ValueError as error:
        raise ValueError(f"{folder / CARD}: {error}; or move it elsewhere, and one is written") from error
    contents.setdefault(CARD, card.encode())
    return RepositoryFiles(dict(sorted(contents.items())), left_out(folder, contents))


def push_checkpoint(
    model: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str = "main",
    message: str = "Upload a checkpoint with ccsam-hf",
    tag: str | None = None,
) -> CommitInfo:
    """Upload a checkpoint in one commit: interrupted before it, the repository stays what it was.

    Files of an earlier push that this one lacks (weights, the processor's, records, the grounder's) are deleted in the
    same commit; everything else in the repository stays.

    Args:
        model: see `repository_files`.
        repo_id: "<user or organisation>/<name>" of the model repository; made if it does not exist.
        private: whether a new repository is private. One that exists keeps its visibility; a public one wants False.
        revision: branch to commit to; made from "main" if it does not exist.
        message: title of the commit.
        tag: name for the commit, not yet taken.

    Returns:
        The URL of the commit; `.oid` is the hash that `from_pretrained(..., revision=)` takes.

    Raises:
        ConnectionError: the connection broke or there is none; the same call again goes on.
        PermissionError: the repository is public and `private` is True, or the token may not write to it.
        FileNotFoundError, ValueError: see `repository_files`; no name of a repository; a card that the Hub refuses; a
            tag that exists.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses for another reason.
    """
    repository_url(repo_id, revision)
    contents = repository_files(model, repo_id).contents
    api = HfApi()
    with readable_errors(repo_id):
        validate_card(bytes_of(contents[CARD]).decode(), f"{model}/{CARD}")
        prepare(api, repo_id, private, revision, tag)
        commit = commit_files(api, repo_id, contents, is_stale, message=message, revision=revision)
        check_arrived(api, repo_id, commit, contents)
        if tag is not None:
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return commit


# --- what a repository holds -----------------------------------------------------------------------------------------


def checkpoint_files(folder: Path) -> dict[str, Path | bytes]:
    """The files of a CC-SAM checkpoint and of its code; the grounder is not looked at."""
    model = load_empty(CCSamModel, folder)
    require(folder, PROCESSOR_FILES, "the processor's settings: CCSamProcessor(CCSamImageProcessor()).save_pretrained")
    pipe = CCSamPipeline(model, CCSamProcessor.from_pretrained(folder), task=TASK)
    contents = weight_files(folder) | present(folder, (*RECORDS, CARD, *LICENCES))
    with TemporaryDirectory() as directory:
        made = Path(directory)
        config = {**read_config(folder), "auto_map": {}}
        custom_object_save(model.config, made, config)
        custom_object_save(model, made, config)
        custom_object_save(pipe, made)
        config["custom_pipelines"] = {
            PIPELINE_TASKS[0]: {"impl": "pipeline_ccsam.CCSamPipeline", "pt": ["AutoModel"], "type": "image"}
        }
        (made / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        pipe.processor.save_pretrained(made)
        contents |= {path.name: path.read_bytes() for path in made.iterdir()}
    contents |= {f"{EXAMPLE_FOLDER}/{name}": content for name, content in example().items()}
    if not contents.keys() & set(LICENCES):
        contents[LICENCE] = licence_of_the_code()
    return contents


def grounder_files(folder: Path) -> dict[str, Path | bytes]:
    """The files of a Grounding DINO with its tokenizer; transformers has its code."""
    read_config(folder)
    model = load_empty(GroundingDinoForObjectDetection, folder)
    require(folder, PROCESSOR_FILES, "the processor's settings: TextGrounder.save_pretrained writes them")
    require(folder, TOKENIZER_FILES, "the tokenizer: TextGrounder.save_pretrained writes it")
    TextGrounder(model, GroundingDinoProcessor.from_pretrained(folder))
    names = (CONFIG, *PROCESSOR_FILES, *TOKENIZER_FILES, *RECORDS, CARD, *LICENCES)
    return weight_files(folder) | present(folder, names)


def weight_files(folder: Path) -> dict[str, Path | bytes]:
    """The safetensors that transformers reads, and the index of several; other ones in the folder are not read."""
    names = [SAFE_WEIGHTS_NAME]
    if not (folder / SAFE_WEIGHTS_NAME).is_file():
        index = json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))
        names = [SAFE_WEIGHTS_INDEX_NAME, *sorted(set(index["weight_map"].values()))]
    return {name: folder / name for name in names}


def example() -> dict[str, bytes]:
    """An image, its mask and where both come from: simulated, for trying the checkpoint out."""
    folder = files("ccsam_hf") / "assets" / "example"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def licence_of_the_code() -> bytes:
    """The licence under which the model's code goes up."""
    text = distribution("ccsam-hf").read_text(f"licenses/{LICENCE}")
    if text is None:
        raise FileNotFoundError(
            f"the installed ccsam-hf has no {LICENCE}; expected it beside its metadata: install again"
        )
    return text.encode()


def present(folder: Path, names: Iterable[str]) -> dict[str, Path | bytes]:
    """Those of the names that are files of the folder."""
    return {name: folder / name for name in names if (folder / name).is_file()}


def left_out(folder: Path, contents: dict[str, Path | bytes]) -> dict[str, str]:
    """The folder's files that do not go up, and why."""
    reasons = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        path = file.relative_to(folder).as_posix()
        if path not in contents:
            is_hidden = any(part.startswith(".") for part in path.split("/"))
            reasons[path] = "hidden" if is_hidden else "no part of a model repository"
        elif path.endswith(".py") and file.read_bytes() != contents[path]:
            reasons[path] = "the installed ccsam-hf has another version, which goes up instead"
    return reasons


def size_of(content: Path | bytes) -> int:
    """Bytes of a file or a content."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def bytes_of(content: Path | bytes) -> bytes:
    """What is in a file, or the content itself."""
    return content.read_bytes() if isinstance(content, Path) else content


# --- what is refused -------------------------------------------------------------------------------------------------


def refuse_pickles(folder: Path) -> None:
    """Raise ValueError for files that run code when they are read; those in hidden folders do not count."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in PICKLES)
    found = sorted(str(path) for path in paths if not any(part.startswith(".") for part in path.parts))
    if found:
        raise ValueError(
            f"{folder} holds {', '.join(found)}, pickled files that run code when they are loaded; expected "
            "safetensors: move them elsewhere, or save the model again"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json; FileNotFoundError or ValueError where there is none to read."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; expected the folder of a checkpoint")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); expected what save_pretrained wrote") from error
    return config


def require(folder: Path, names: Iterable[str], what: str) -> None:
    """Raise FileNotFoundError where the folder has none of the files."""
    if not present(folder, names):
        raise FileNotFoundError(f"{folder} has none of {', '.join(names)}; expected {what}")


def load_empty(model_class: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """The model of a checkpoint without memory for its weights, which have to fit it; ValueError where they do not."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the error says what the report on the weights would
    try:
        with LOAD_LOCK:
            model, report = model_class.from_pretrained(
                folder, device_map="meta", ignore_mismatched_sizes=True, use_safetensors=True, output_loading_info=True
            )
    except SafetensorError as error:
        raise ValueError(
            f"the weights in {folder} cannot be read ({error}); expected whole files: copy them again"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    for problem, names in (
        ("lacks", report["missing_keys"]),
        ("has, unknown to the model,", report["unexpected_keys"]),
        ("has in another shape", [name for name, *_ in report["mismatched_keys"]]),
    ):
        if names:
            raise ValueError(
                f"{folder} {problem} {len(names)} tensors ({min(names)} ...); expected a complete checkpoint whose "
                f"{CONFIG} belongs to its weights: convert, train or save it again"
            )
    return model


def repository_url(repo_id: str, revision: str = "main") -> str:
    """Where a push goes; ValueError for what cannot be the name of a repository."""
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} names no owner; expected <user or organisation>/<name>")
    return f"{HfApi().endpoint}/{repo_id}/tree/{revision}"


# --- the push --------------------------------------------------------------------------------------------------------


def validate_card(text: str, path: str) -> None:
    """Let the Hub check a card; ValueError where it refuses."""
    try:
        ModelCard(text).validate()
    except ValueError as error:
        raise ValueError(f"the Hub refuses the card {path}: {error}") from error


def prepare(api: HfApi, repo_id: str, private: bool, revision: str, tag: str | None) -> None:
    """Make repository and branch where they are missing; refuse a public one that is not meant, and a taken tag."""
    api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise PermissionError(
            f"{repo_id} exists and is public; a push is private if not said otherwise: choose another repository, or "
            "say that it may be public (--public, private=False)"
        )
    tags = {} if tag is None else {each.name: each.target_commit for each in api.list_repo_refs(repo_id).tags}
    if tag in tags:
        raise ValueError(
            f"{repo_id} has a tag {tag!r} already, at {tags[tag]}; choose another: a tag stays where it is"
        )
    if revision != "main":
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def is_stale(path: str) -> bool:
    """Whether a file in the repository would be read beside those of this push, or tell of another checkpoint."""
    return path.startswith(f"{GROUNDER_FOLDER}/") or ("/" not in path and any(fnmatchcase(path, one) for one in STALE))


def check_arrived(api: HfApi, repo_id: str, commit: CommitInfo, contents: dict[str, Path | bytes]) -> None:
    """Raise ValueError where a file is not in the commit: a .gitignore in the repository can keep it out."""
    tree = api.list_repo_tree(repo_id, recursive=True, revision=commit.oid)
    there = {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
    wrong = [path for path, content in contents.items() if there.get(path) != size_of(content)]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} did not arrive in {commit}; remove the .gitignore in the repository that keeps them "
            "out, and push again"
        )
