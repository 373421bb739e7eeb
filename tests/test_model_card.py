"""Cards: what a folder's files say and nothing else, valid for the Hub, refused where the figures are not theirs."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, SpaceCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from PIL import Image

from ccsam_hf import TINY, TINY_GROUNDER, CCSamImageProcessor, CCSamModel, CCSamProcessor, TextGrounder
from ccsam_hf.data.readers import LAYOUTS
from ccsam_hf.data.simulator import write_folder
from ccsam_hf.data.sources import SOURCES
from ccsam_hf.data.splits import SEEN, UNSEEN
from ccsam_hf.evaluation.data_sets import read_data
from ccsam_hf.evaluation.harness import evaluate_study
from ccsam_hf.evaluation.record import file_hashes, grounding_record, read_record, study_record, write_record
from ccsam_hf.evaluation.segmenters import CCSamSegmenter, about_module
from ccsam_hf.hub.card_check import check_card
from ccsam_hf.hub.card_facts import of_layout
from ccsam_hf.hub.card_results import PROMPT_NAMES
from ccsam_hf.hub.cards import checkpoint_card, filled, grounder_card, space_card

TRAINING = Path(__file__).resolve().parents[1] / "training"
DEVICE = "**For research. Not a medical device: it must not guide a diagnosis or a treatment.**"
SECTIONS = (
    "How to use it",
    "How good it is",
    "Limits",
    "Intended use",
    "Training",
    "Training data and licences",
    "How it was measured",
    "Environmental note",
    "Citation",
)
RUN = {
    "checkpoint": None,
    "data": "simulator",
    "layout": "built",
    "datasets": [],
    "trainable": "adapters",
    "batch_size": 8,
    "learning_rate": 0.001,
    "seed": 3,
}


def words(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


def tables(card: str) -> list[list[list[str]]]:
    """The cells of each table without its head, bold or not."""
    blocks = [block for block in card.split("\n\n") if block.startswith("|")]
    return [
        [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
        for block in blocks
    ]


def interval(score: dict) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(score["mean"], *score["ci95"])


def read(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "evaluation.json").read_text())


@pytest.fixture
def scripts(monkeypatch):
    """training/write_cards.py."""
    monkeypatch.syspath_prepend(str(TRAINING))
    import write_cards

    return write_cards


@pytest.fixture
def folder(tmp_path, tiny_model_original) -> Path:
    """A checkpoint of which nothing is recorded."""
    directory = tmp_path / "my-checkpoint"
    tiny_model_original.save_pretrained(directory)
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Four simulated cases of two targets by box, click and text: ccsam-tiny, and another one with random weights."""
    directory = tmp_path_factory.mktemp("study")
    write_folder(
        directory / "cases", count=4, seed=2_000_000_000, targets=("left ventricle", "myocardium"), size=(64, 64)
    )
    torch.manual_seed(1)  # the fixtures' model has 0
    other = CCSamSegmenter(CCSamModel(CCSamModel.config_class.tiny()), CCSamProcessor(CCSamImageProcessor()))
    data, _ = read_data("hearts", directory / "cases", "folder", seen=True)
    evaluate_study(
        {"ccsam-tiny": CCSamSegmenter.load(TINY), "other": other},
        [data],
        ["box", "point", "text"],
        directory / "out",
        grounder=TextGrounder.from_pretrained(TINY_GROUNDER),
        command="training/evaluate.py --model ccsam-tiny=ccsam:/home/m/ccsam-tiny --data hearts=folder:/home/m/cases",
    )
    return directory / "out"


@pytest.fixture(scope="module")
def grounder_scores(tmp_path_factory) -> Path:
    """What training/evaluate_grounder.py writes, with figures of its own."""
    entry = {"n": 3, "recall": 2 / 3, "recall_found": 0.5, "mean_iou": 0.6, "chance": 0.7, "swap": None}
    entry |= {"n_absent": 1, "false_alarms": 0.0}
    forms = {form: {"myocardium": entry, "all": entry, "average_precision": 0.4} for form in ("phrase", "description")}
    path = tmp_path_factory.mktemp("grounder") / "grounder.json"
    about = {
        "grounder": "g",
        "sha256": about_module(TextGrounder.from_pretrained(TINY_GROUNDER).model, None)["sha256"],
        "tuned_on": None,
        "scenes": 3,
        "seed": 5,
        "versions": {"torch": "2", "transformers": "5"},
    }
    path.write_text(json.dumps(forms | about))
    return path


# --- the bundled cards -----------------------------------------------------------------------------------------------


def test_nobody_typed_the_bundled_cards(scripts):
    assert (Path(TINY) / "README.md").read_text() == scripts.tiny_card()
    assert (Path(TINY_GROUNDER) / "README.md").read_text() == scripts.tiny_grounder_card()


@pytest.mark.parametrize("folder", [TINY, TINY_GROUNDER])
def test_the_bundled_cards_are_for_the_hub_and_have_every_section(folder):
    text = (Path(folder) / "README.md").read_text()
    data = check_card(text)
    assert data.to_dict() == yaml.safe_load(text.split("---\n")[1])  # nothing is lost on the way through the library
    assert (data.license, data.library_name, data.datasets) == ("apache-2.0", "transformers", ["ccsam-hf-simulator"])
    assert "ultrasound" in data.tags and "simulated-data" in data.tags and data.metrics and data.base_model is None
    assert re.findall(r"^##+ (.*)$", text, flags=re.MULTILINE) == list(SECTIONS)
    assert DEVICE in text and "It has seen simulated images only" in words(text)
    assert "arXiv 2408.00181" in text or "arXiv 2303.05499" in text
    assert "/tmp" not in text and "/home" not in text and "/work" not in text


@pytest.mark.parametrize("folder", [TINY, TINY_GROUNDER])
def test_the_bundled_figures_are_those_of_the_bundled_weights(folder):
    record = read_record(folder)
    model = CCSamSegmenter.load(folder).model if folder == TINY else TextGrounder.from_pretrained(folder).model
    assert record["state_sha256"] == about_module(model, None)["sha256"]
    assert (Path(folder) / "evaluation.json").stat().st_size < 16_000


def test_the_model_index_has_the_figures_of_the_evaluation():
    data = ModelCard.load(Path(TINY) / "README.md").data
    assert (data.model_name, data.pipeline_tag) == ("ccsam-tiny", "mask-generation")
    found = {(each.dataset_name, each.metric_name): each for each in data.eval_results}
    entries = [each for each in read(TINY)["results"] if each["target"] == "all"]
    assert len(found) == 2 * len(entries) == 12
    for entry in entries:
        for score, label in (("dice", "Dice (%)"), ("hd_samus", "Hausdorff distance, Manhattan (px of 256x256)")):
            result = found[entry["data"], f"{label}, prompt: {PROMPT_NAMES[entry['prompt']]}"]
            assert result.metric_value == round(entry[score]["mean"], 2)
            assert result.metric_args == {"ci95": "{:.2f} to {:.2f}".format(*entry[score]["ci95"])}
            assert result.dataset_args == {"cases": entry["n"]}
    assert eval_results_to_model_index("ccsam-tiny", data.eval_results) == data.to_dict()["model-index"]


def test_the_grounders_model_index_has_the_figures_of_the_evaluation():
    data = ModelCard.load(Path(TINY_GROUNDER) / "README.md").data
    record, found = read(TINY_GROUNDER), {each.metric_name: each.metric_value for each in data.eval_results}
    for form in ("phrase", "description"):
        (entry,) = [each for each in record["results"] if (each["form"], each["target"]) == (form, "all")]
        assert found[f"Recall at IoU 0.5 (%), text: {form}"] == round(100 * entry["recall"], 2)
        assert found[f"Mean IoU (%), text: {form}"] == round(100 * entry["mean_iou"], 2)
        precision = found[f"Average precision at IoU 0.5 to 0.95 (%), text: {form}"]
        assert precision == round(100 * record["average_precision"][form], 2)


def test_the_tables_of_ccsam_tiny_have_the_figures_of_the_evaluation():
    record = read(TINY)
    overall, by_target, lessons = tables((Path(TINY) / "README.md").read_text())
    assert overall == [
        [each["data"], PROMPT_NAMES[each["prompt"]], interval(each["dice"]), f"{each['baseline']['dice']['mean']:.1f}"]
        + [
            interval(each["hd_samus"]),
            f"{each['baseline']['hd_samus']['mean']:.1f}",
            f"{each['found']} of {each['n']}",
        ]
        for each in record["results"]
        if each["target"] == "all"
    ]
    entries = {(each["target"], each["prompt"]): each for each in record["results"] if each["data"] == "simulated"}
    assert by_target == [
        [target]
        + [
            "{:.1f} ({:.1f})".format(*(part["dice"]["mean"] for part in (each, each["baseline"])))
            for each in (entries[target, prompt] for prompt in ("box", "point", "text"))
        ]
        + ["50"]
        for target in record["data"][0]["targets"]
    ]
    assert sorted(cell for line in lessons for cell in line[1:]) == sorted(
        "{:+.1f} [{:+.1f}, {:+.1f}]".format(each["difference"], *each["ci95"]) for each in record["compared"]
    )


def test_what_the_limits_of_ccsam_tiny_say_follows_from_its_figures():
    record, text = read(TINY), words((Path(TINY) / "README.md").read_text())
    worse = [each for each in record["results"] if each["dice"]["mean"] <= each["baseline"]["dice"]["mean"]]
    assert [(each["target"], each["prompt"]) for each in worse] == [("thyroid nodule", "box")]
    assert "Thyroid nodule (simulated, tight box): worse than the ellipse" in text
    for each in record["corrections"]:  # "help little and can make the mask worse"
        assert each["dice"][-1] < each["dice"][0] + 1 and ", ".join(map(str, each["dice"])) in text


def test_the_table_of_the_grounder_has_the_figures_of_the_evaluation():
    record = read(TINY_GROUNDER)
    boxes, masks = tables((Path(TINY_GROUNDER) / "README.md").read_text())
    shares = ("recall", "chance", "swap", "mean_iou", "false_alarms")
    assert boxes == [
        [each["target"]]
        + ["–" if each[name] is None else f"{100 * each[name]:.1f}" for name in shares]
        + [f"{each['n']}, {each['n_absent']}"]
        for each in record["results"]
        if each["form"] == "phrase"
    ]
    assert masks == [
        [each["data"], interval(each["dice"]), interval(each["baseline"]["dice"]), interval(each["hd_samus"])]
        + [f"{each['found']} of {each['n']}"]
        for each in record["masks"]["results"]
        if each["target"] == "all"
    ]
    same = [each for each in read(TINY)["results"] if each["prompt"] == "text"]
    assert record["masks"]["results"] == same


# --- from a study to evaluation.json ---------------------------------------------------------------------------------


def test_a_record_holds_the_means_of_the_study_and_names_its_weights(study):
    record = study_record(study, TINY, compared_with="other")
    summary = json.loads((study / "summary.json").read_text())
    assert record["weights"] == file_hashes(TINY) and record["protocol"] == "samus"
    assert record["command"] == "training/evaluate.py --model ccsam-tiny=ccsam:ccsam-tiny --data hearts=folder:cases"
    assert record["data"][0]["targets"] == ["left ventricle", "myocardium"] and record["data"][0]["seen"] is True
    keys = [(each["prompt"], each["target"]) for each in record["results"]]
    targets = ("left ventricle", "myocardium", "all")
    assert keys == [(prompt, target) for prompt in ("box", "point", "text") for target in targets]
    for entry in record["results"]:
        names = {"ccsam-tiny": entry, f"{entry['baseline']['name']} (blind)": entry["baseline"]}
        for name, found in names.items():
            (mean,) = [
                each
                for each in summary
                if (each["model"], each["prompt"], each["target"]) == (name, entry["prompt"], entry["target"])
            ]
            for score in ("dice", "hd_samus", "hd_rows"):
                assert found[score]["mean"] == pytest.approx(mean[score]["mean"], rel=1e-5)
                assert found[score]["ci95"] == pytest.approx(mean[score]["ci95"], rel=1e-5)
            assert (entry["n"], entry["found"]) == (mean["n"], mean["n"] - mean["n_missed"])


def test_a_comparison_is_from_the_other_model_to_this_one(study):
    compared = study_record(study, TINY, compared_with="other")["compared"]
    by_box = {each["model"]: each for each in json.loads((study / "summary.json").read_text()) if key(each)}
    difference = by_box["ccsam-tiny"]["dice"]["mean"] - by_box["other"]["dice"]["mean"]
    assert [each["prompt"] for each in compared] == ["box", "point", "text"] and compared[0]["with"] == "other"
    assert compared[0]["difference"] == pytest.approx(difference, rel=1e-5) and difference > 10
    assert compared[0]["ci95"][0] < difference < compared[0]["ci95"][1]


def key(entry: dict) -> bool:
    return (entry["prompt"], entry["target"]) == ("box", "all")


def test_a_record_of_one_target_has_the_entry_of_all(study, tmp_path):
    shutil.copytree(study, tmp_path / "study")
    entries = [
        each for each in json.loads((study / "summary.json").read_text()) if each["target"] in ("myocardium", "all")
    ]
    (tmp_path / "study" / "summary.json").write_text(json.dumps(entries))
    record = study_record(tmp_path / "study", TINY)
    assert [each["target"] for each in record["results"]] == ["all"] * 3 and "compared" not in record


def test_figures_of_other_weights_are_refused(study, folder):
    with pytest.raises(ValueError, match="none of them the weights in .*my-checkpoint.*evaluate these weights"):
        study_record(study, folder)


def test_a_study_without_the_other_model_or_a_file_is_refused(study, tmp_path):
    with pytest.raises(ValueError, match="does not compare 'ccsam-tiny' with 'U-Net'"):
        study_record(study, TINY, compared_with="U-Net")
    with pytest.raises(FileNotFoundError, match="study.json is missing; expected the output folder of a finished"):
        study_record(tmp_path, TINY)


def test_corrections_are_of_the_weights_and_cases_of_the_study(study):
    correction = corrections_of(study)
    record = study_record(study, TINY, corrections=[correction])
    expected = {"model": "this", "data": "hearts", "n": 4, "dice": correction["dice"]}
    assert record["corrections"] == [expected]
    for wrong in ({"weights": "0" * 64}, {"cases": "0" * 64}, {"data": "lungs"}, {"model": "third"}):
        with pytest.raises(ValueError, match="measure both with the same weights and data"):
            study_record(study, TINY, corrections=[correction | wrong])


def corrections_of(study: Path) -> dict:
    """What clicks would have gained in the study."""
    about = json.loads((study / "study.json").read_text())
    hashes = {"weights": about["models"][0]["sha256"], "cases": about["data"][0]["sha256"]}
    return {"model": "ccsam-tiny", "data": "hearts", "n": 4, "dice": [50.0 + number for number in range(10)]} | hashes


def test_a_grounder_is_recorded_with_its_way_to_the_mask(study, grounder_scores):
    record = grounding_record(grounder_scores, TINY_GROUNDER, study, TINY)
    assert (record["scenes"], record["seed"]) == (3, 5) and record["weights"] == file_hashes(TINY_GROUNDER)
    assert record["results"][0] == {"form": "phrase", "target": "myocardium", "n": 3, "recall": 0.666667} | {
        "recall_found": 0.5,
        "mean_iou": 0.6,
        "chance": 0.7,
        "swap": None,
        "n_absent": 1,
        "false_alarms": 0.0,
    }
    assert record["average_precision"] == {"phrase": 0.4, "description": 0.4}
    assert {each["prompt"] for each in record["masks"]["results"]} == {"text"}
    assert record["masks"]["model"] == "ccsam-tiny"
    assert "masks" not in grounding_record(grounder_scores, TINY_GROUNDER)


def test_the_figures_of_a_grounder_on_real_sets_are_recorded(grounder_scores, tmp_path):
    pair = {"data": "BUSI", "target": "breast lesion", "n": 3, "recall": 2 / 3, "recall_ci95": [1 / 3, 1.0]}
    real = {"split": "test", "lists": "real.json", "pairs": [pair], "largest_difference": 0.0}
    (tmp_path / "scores.json").write_text(json.dumps(json.loads(grounder_scores.read_text()) | {"real": real}))
    record = grounding_record(tmp_path / "scores.json", TINY_GROUNDER)
    assert record["real"] == [pair | {"recall": 0.666667, "recall_ci95": [0.333333, 1.0]}]
    assert (record["real_split"], record["largest_difference"]) == ("test", 0.0)
    assert "real" not in grounding_record(grounder_scores, TINY_GROUNDER)


def test_another_grounder_is_refused(study, grounder_scores, tmp_path):
    scores = json.loads(grounder_scores.read_text())
    for other, told in (({"sha256": "f" * 64}, "ffffffffffff"), ({"sha256": None}, "None")):
        (tmp_path / "other.json").write_text(json.dumps(scores | other))
        with pytest.raises(ValueError, match=f"measured the grounder {told} and not the one in"):
            grounding_record(tmp_path / "other.json", TINY_GROUNDER)
    shutil.copytree(study, tmp_path / "study")
    about = json.loads((study / "study.json").read_text())
    (tmp_path / "study" / "study.json").write_text(json.dumps(about | {"grounder": None}))
    with pytest.raises(ValueError, match="measured the grounder None and not the one in"):
        grounding_record(grounder_scores, TINY_GROUNDER, tmp_path / "study", TINY)


def test_a_record_is_read_as_it_was_written_and_only_with_its_weights(folder, tiny_model):
    record = {"weights": file_hashes(folder), "results": [{"n": 1}, {"n": 2}], "none": None, "empty": []}
    write_record(folder, record)
    assert read_record(folder) == record and len((folder / "evaluation.json").read_text().splitlines()) == 9
    assert not list(folder.glob("*.unfinished"))
    with torch.no_grad():
        next(tiny_model.parameters()).add_(1)
    tiny_model.save_pretrained(folder)
    with pytest.raises(ValueError, match="not of the weights beside it.*evaluate these weights, or remove the file"):
        checkpoint_card(folder)


def test_the_script_writes_both_cards_and_refuses_before_it_writes(
    scripts, study, grounder_scores, folder, tmp_path, monkeypatch
):
    tiny = tmp_path / "ccsam-tiny"
    shutil.copytree(TINY, tiny)
    for name in ("README.md", "evaluation.json"):
        (tiny / name).unlink()
        (tiny / "grounder" / name).unlink()
    arguments = ["--study", str(study), "--grounder", str(grounder_scores), "--compared-with", "other"]
    expected = corrections_of(study)
    entry = {"n": 4} | {f"dice_{number}": {"mean": dice} for number, dice in enumerate(expected["dice"], 1)}
    identity = {"models": [{"sha256": expected["weights"]}], "data": [{"sha256": expected["cases"]}]}
    summary = {"prompt": "clicks", "all": entry, "identity": identity}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    corrections = ["--corrections", "ccsam-tiny", "hearts", str(tmp_path / "summary.json")]
    with pytest.raises(ValueError, match="evaluate these weights"):
        scripts.main(arguments, folder, tiny / "grounder")
    (tmp_path / "box.json").write_text(json.dumps(summary | {"prompt": "box"}))
    with pytest.raises(ValueError, match="box.json is of the prompt 'box'; expected ccsam-hf evaluate --prompt"):
        scripts.main([*arguments, *corrections[:3], str(tmp_path / "box.json")], tiny, tiny / "grounder")
    with pytest.raises(SystemExit):
        scripts.main(arguments[:2], tiny, tiny / "grounder")
    assert not list(tmp_path.rglob("README.md")) and not list(tmp_path.rglob("evaluation.json"))
    # the template speaks of both data sets, which this study lacks
    monkeypatch.setattr(scripts, "tiny_card", checkpoint_card)
    scripts.main([*arguments, *corrections], tiny, tiny / "grounder")
    assert read(tiny)["corrections"] == [{"model": "this", "data": "hearts", "n": 4, "dice": expected["dice"]}]
    for directory in (tiny, tiny / "grounder"):
        card = (directory / "README.md").read_text()
        check_card(card)
        assert "hearts" in card and not list(directory.glob("*.unfinished"))
        (directory / "README.md").unlink()
    scripts.main([], tiny, tiny / "grounder")
    assert (tiny / "README.md").read_text() and (tiny / "grounder" / "README.md").read_text()


# --- cards of any folder ---------------------------------------------------------------------------------------------


def test_what_nobody_recorded_is_said(folder):
    card = checkpoint_card(folder)
    data, text = check_card(card), words(card)
    assert data.license == "unknown" and data.eval_results is None and data.datasets is None and data.metrics is None
    assert card.startswith("---\n") and "\n# my-checkpoint\n" in card and DEVICE in card
    assert [section for section in SECTIONS if f"# {section}\n" not in card] == []
    for said in (
        "Not evaluated: no `evaluation.json` lies beside these weights.",
        "Its quality is not recorded.",
        "Not recorded: neither `training.json` nor `conversion_report.json` lies beside these weights.",
        "### Training data and licences Not recorded.",
        "## How it was measured Not measured.",
        "Hardware of the training: not recorded. Hours: not recorded.",
        "No text grounder lies beside these weights",
        "The scanners, hospitals and patients of its training images are not recorded here",
        "ViT of 3 layers and width 64, a ResNet beside it, variational attention fusion; 1.5 M parameters",
    ):
        assert said in text, said
    (folder / "grounder").mkdir()
    assert "asks the text grounder in the folder `grounder`" in words(checkpoint_card(folder))


def test_a_grounder_of_which_nothing_is_recorded_says_so(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(TINY_GROUNDER) / name, tmp_path / name)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["grounder"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    card = grounder_card(tmp_path, name="mine", repo_id="me/mine")
    text = words(card)
    assert check_card(card).license == "unknown" and 'TextGrounder.from_pretrained("me/mine")' in card
    for said in (
        "Not evaluated",
        "not recorded",
        "No file records that it has learned from ultrasound images",
        "Not measured.",
    ):
        assert said in text, said


def test_the_story_of_a_training_run_is_told(folder):
    record = {"run": RUN, "step": 400, "hardware": "one GPU", "hours": 3}
    (folder / "training.json").write_text(json.dumps(record))
    card = checkpoint_card(folder)
    data, text = check_card(card), words(card)
    assert (data.license, data.datasets) == ("apache-2.0", ["ccsam-hf-simulator"])
    assert (
        "Started from random weights. Trained parameters: `adapters`. Steps of 8 images, learning rate 0.001, seed 3"
        in text
    )
    assert "those after step 400" in text and "Hardware of the training: one GPU. Hours: 3." in text
    assert "no patient is in them" in text

    run = RUN | {"checkpoint": "models/start", "data": "BUSI", "layout": "busi"}
    (folder / "training.json").write_text(json.dumps(record | {"run": run}))
    card = checkpoint_card(folder, base_model="me/start")
    data, text = check_card(card), words(card)
    assert (data.license, data.license_name) == ("other", "that-of-the-base-model-and-the-data")
    assert (data.datasets, data.base_model) == (["BUSI"], "me/start") and "Started from `models/start`." in text
    assert f"Licence: {SOURCES['BUSI'].license}. {SOURCES['BUSI'].terms}" in text
    assert SOURCES["BUSI"].bibtex[0] in card

    run = RUN | {"data": "mine", "layout": "folder"}
    (folder / "training.json").write_text(
        json.dumps({"run": {name: run[name] for name in run if name != "checkpoint"}})
    )
    text = words(checkpoint_card(folder))
    assert "What it started from is not recorded." in text and "after step (not recorded)" in text
    assert "`mine`, in the layout `folder`. Its licence and its patients are not recorded here" in text


def test_what_a_conversion_left_untrained_is_said(folder):
    report = {"kind": "sam", "naming": "segment_anything", "loaded": ["a", "b"], "interpolated": [["c", [1], [2]]]}
    report |= {"newly_initialised": ["d"], "from_base": [], "unused": {"e": "no place"}}
    (folder / "conversion_report.json").write_text(json.dumps(report))
    card = checkpoint_card(folder)
    data, text = check_card(card), words(card)
    assert (data.license, data.license_name) == ("other", "that-of-the-published-weights")
    assert "2 tensors were loaded, 1 interpolated, 0 kept from a base model, 1 newly initialised" in text
    assert "The newly initialised tensors have learned nothing. Train the model before use." in text
    (folder / "conversion_report.json").write_text(json.dumps(report | {"newly_initialised": []}))
    assert "have learned nothing" not in checkpoint_card(folder)


def test_an_evaluation_is_shown_with_the_limits_that_follow_from_it(folder, study):
    shutil.copy(Path(TINY) / "model.safetensors", folder)
    record = study_record(study, TINY)
    write_record(folder, record)
    card = checkpoint_card(folder)
    data, text = check_card(card), words(card)
    assert {each.dataset_name for each in data.eval_results} == {"hearts"} and len(data.eval_results) == 6
    assert "- hearts: 4 (left ventricle, myocardium), of the kind it was trained on." in text
    assert "python training/evaluate.py --model ccsam-tiny=ccsam:ccsam-tiny --data hearts=folder:cases" in text
    worse = [each for each in record["results"] if each["dice"]["mean"] <= each["baseline"]["dice"]["mean"]]
    assert text.count("which does not see the image") == len(worse)
    record["results"][0]["dice"]["mean"] = 0.0
    write_record(folder, record)
    told = "hearts, tight box, left ventricle: not better than the ellipse, which does not see the image (0.0 and"
    assert told in words(checkpoint_card(folder))


def test_the_code_of_a_card_runs(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (300, 200), 90).save("case.png")
    blocks = re.findall(r"```python\n(.*?)```", checkpoint_card(folder, repo_id=str(folder)), flags=re.DOTALL)
    assert len(blocks) == 2 and "trust_remote_code=True" in blocks[1]  # which a push makes true
    exec(compile(blocks[0], "card", "exec"), {})
    (block,) = re.findall(r"```python\n(.*?)```", grounder_card(TINY_GROUNDER, repo_id=TINY_GROUNDER), flags=re.DOTALL)
    exec(compile(block, "card", "exec"), {})


def test_texts_from_outside_stay_texts(folder):
    run = RUN | {"data": "a|b <script>\nx", "layout": "folder", "checkpoint": "c|d"}
    (folder / "training.json").write_text(json.dumps({"run": run}))
    card = checkpoint_card(folder, name="my: <b>model</b>\n# no")
    assert check_card(card).model_name is None and "\n# my: &lt;b&gt;model&lt;/b&gt; # no\n" in card
    assert "<script>" not in card and "`a&#124;b &lt;script&gt; x`" in card


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json; expected the folder of a checkpoint"):
        checkpoint_card(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="has no .*safetensors"):
        grounder_card(tmp_path)


def test_layouts_of_known_data_sets_name_them():
    named = {layout: of_layout(layout) for layout in LAYOUTS}
    assert named["busi"] == ["BUSI"] and named["camus-sequence"] == ["CAMUS"] and named["hmc-qu"] == ["HMC-QU"]
    assert named["us30k"] == [*SEEN, *UNSEEN] and named["hc18"] == ["HC18"] and named["mmotu"] == ["MMOTU"]
    assert [layout for layout, names in named.items() if not names] == ["folder", "coco", "dicom", "built"]


def test_paragraphs_are_filled_and_code_and_tables_are_not():
    code = "```bash\nfirst \\\n\n\n    --second\n```"
    table = "| a | b |\n|---|---|\n| 1 | 2 |"
    text = f"one\ntwo  three\n\n\n\n- item\n  goes on\n- next\n\n{code}\n\n{table}\n"
    assert filled(text) == f"one two three\n\n- item goes on\n- next\n\n{code}\n\n{table}\n"
    lines = filled("word " * 60 + "\n\n- " + "item " * 60).splitlines()
    assert max(map(len, lines)) <= 119 and lines[-1].startswith("  item")


# --- the check -------------------------------------------------------------------------------------------------------


GOOD = """---
license: mit
library_name: transformers
pipeline_tag: mask-generation
tags:
- ultrasound
---

# A card
"""


def with_metadata(**changed) -> str:
    values = yaml.safe_load(GOOD.split("---")[1]) | changed
    return (
        f"---\n{yaml.safe_dump({name: value for name, value in values.items() if value is not None})}---\n\n# A card\n"
    )


def index(**changed) -> list:
    metric = {"type": "dice", "value": 80.0, "name": "Dice"} | {k: v for k, v in changed.items() if k == "value"}
    result = {"task": {"type": changed.get("task", "mask-generation")}, "dataset": {"name": "a", "type": "a"}}
    return [{"name": "m", "results": [result | {"metrics": [metric]}]}]


def test_a_good_card_is_accepted():
    assert check_card(GOOD).license == "mit"
    data = check_card(with_metadata(**{"model-index": index(), "base_model": ["me/a", "b"]}))
    assert [each.metric_value for each in data.eval_results] == [80.0]
    assert check_card(with_metadata(license="other", license_name="my-terms-1.0"))


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ("# no front matter\n", "does not begin with front matter"),
        (GOOD.replace("license: mit", "license: [mit"), "huggingface_hub cannot read the front matter"),
        ("---\n- a\n- b\n---\n", "huggingface_hub cannot read the front matter"),
        (with_metadata(license="apache"), "license is 'apache'; expected an identifier"),
        (with_metadata(license=None), "license is None"),
        (with_metadata(license="other"), "license 'other' came with license_name None"),
        (with_metadata(license="other", license_name="My Terms"), "license_name 'My Terms'; expected small letters"),
        (
            with_metadata(pipeline_tag="segmentation"),
            "pipeline_tag is 'segmentation'; expected one of depth-estimation",
        ),
        (with_metadata(library_name=None), "library_name is None"),
        (with_metadata(tags=None), "tags are None"),
        (with_metadata(base_model="runs/tiny/best"), "runs/tiny/best"),
        (with_metadata(datasets=["my data"]), "my data"),
        (with_metadata(**{"model-index": [{"name": "m"}]}), "huggingface_hub cannot read the front matter"),
        (with_metadata(**{"model-index": index(task="segmenting")}), "the task 'segmenting'"),
        (with_metadata(**{"model-index": index(value="high")}), "'Dice' is 'high' in the model index"),
        (with_metadata(**{"model-index": index(value=float("nan"))}), "'Dice' is nan in the model index"),
        (GOOD + "{{ name }}\n", "a template's signs are left"),
        (GOOD + "{% if x %}\n", "a template's signs are left"),
    ],
)
def test_a_card_that_is_not_for_the_hub_is_refused(card, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        check_card(card)


def test_every_fault_is_named_at_once():
    with pytest.raises(ValueError, match="license is 'x'.*pipeline_tag is 'y'"):
        check_card(with_metadata(license="x", pipeline_tag="y"))
    with pytest.raises(ValueError, match="repo_type is 'bucket'; accepted are model, space"):
        check_card(GOOD, "bucket")


# --- the Space -------------------------------------------------------------------------------------------------------


def test_the_card_of_the_space_says_how_to_run_it():
    card = space_card("6.31.0", models=["me/ccsam-tiny"])
    data = SpaceCard(card).data
    assert (data.sdk, data.sdk_version, data.app_file, data.python_version) == ("gradio", "6.31.0", "app.py", "3.11")
    assert data.models == ["me/ccsam-tiny"] and data.license == "apache-2.0" and data.tags
    assert len(data.short_description) <= 60 and DEVICE.strip("*") in card


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("sdk: gradio", "sdk: flask", "sdk is 'flask'; expected one of docker, gradio"),
        ("colorTo: gray", "colorTo: teal", "colorTo is 'teal'"),
        ("app_file: app.py\n", "", "app_file is missing"),
        ("short_description: ", f"short_description: {'very ' * 10}", "short_description has"),
        ("license: apache-2.0", "license: free", "license is 'free'"),
    ],
)
def test_a_space_that_the_hub_would_not_run_is_refused(before, after, told):
    card = space_card("6.31.0")
    assert before in card
    with pytest.raises(ValueError, match=re.escape(told)):
        check_card(card.replace(before, after), "space")
