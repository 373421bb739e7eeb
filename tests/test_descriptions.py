"""Texts for the grounder: the registry, phrases, the paper's description, mentions, and answers of a language model.

The language model is a real HTTP server on 127.0.0.1 that speaks OpenAI's chat completions.
"""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from ccsam_hf.descriptions import (
    PAPER_INSTRUCTION,
    PAPER_TEMPLATE,
    TARGETS,
    DescriptionWriter,
    describe,
    find_target,
    mention_spans,
    nearest_targets,
    split_targets,
    to_phrase,
)

THYROID_TEXT = "A thyroid nodule is a rounded focus.\nOutline the Thyroid\nNodule, not the gland."


def spellings(target) -> tuple[str, ...]:
    return (target.name, *target.synonyms)


# Registry


def test_the_registry_holds_every_labelled_target_of_us30k():
    by_label = {
        (dataset, value): target.name for target in TARGETS.values() for dataset, value in target.class_ids.items()
    }
    assert by_label == {
        ("ThyroidNodule-TN3K", 1): "thyroid nodule",
        ("ThyroidNodule-DDTI", 1): "thyroid nodule",
        ("ThyroidGland-TG3K", 1): "thyroid gland",
        ("ThyroidNodule-TG3K", 1): "thyroid gland",  # the archive files the gland under two folder names
        ("Breast-BUSI", 1): "breast lesion",
        ("Breast-UDIAT", 1): "breast lesion",
        ("Echocardiography-CAMUS", 1): "left ventricle",
        ("Echocardiography-CAMUS", 2): "myocardium",
        ("Echocardiography-CAMUS", 3): "left atrium",
        ("Echocardiography-HMCQU", 1): "myocardium",
    }
    assert sum(len(target.class_ids) for target in TARGETS.values()) == len(by_label)  # no label has two targets


def test_no_spelling_belongs_to_two_targets_or_stands_for_any_lesion():
    everything = [spelling for target in TARGETS.values() for spelling in spellings(target)]
    assert len(everything) == len(set(everything))
    assert all(spelling == " ".join(spelling.lower().split()) for spelling in everything)
    for generic in ("lesion", "nodule", "mass", "tumor", "ventricle", "atrium", "heart", "artery", "nerve", "object"):
        assert find_target(generic) is None


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_target_is_found_by_its_name_and_every_synonym(target):
    assert TARGETS[target.name] is target
    for spelling in spellings(target):
        for text in (spelling, f"  {spelling.upper()} ", f"the {spelling}.", f"A\t{spelling} !"):
            assert find_target(text) is target
            assert to_phrase(text) == target.name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("thyroid nodules", "thyroid nodule"),
        ("Nodules in the thyroid", "thyroid nodule"),
        ("breast masses", "breast lesion"),
        ("carotid arteries", "carotid artery"),
        ("left ventricular cavities", "left ventricle"),
        ("kidneys", "kidney"),
        ("tumours of the breast", "breast lesion"),
    ],
)
def test_a_regular_plural_is_the_same_target(text, name):
    assert find_target(text) is TARGETS[name]


@pytest.mark.parametrize("text", ["", "thyroid nodule left", "nodules of the thyroids", "athyroid", "the"])
def test_what_is_no_name_finds_nothing(text):
    assert find_target(text) is None


# Phrases and descriptions


def test_free_text_is_cleaned_and_otherwise_kept():
    assert to_phrase("  Hypoechoic\n MASS, upper-left ;. ") == "hypoechoic mass, upper-left"


@pytest.mark.parametrize("text", ["", "  ", "...", "12 ?"])
def test_text_without_a_letter_is_refused(text):
    with pytest.raises(ValueError, match="expected the name of a target"):
        to_phrase(text)


@pytest.mark.parametrize("text", ["thyroid nodule. thyroid gland", "cyst? solid", "1.5 cm nodule"])
def test_a_separator_of_the_detector_inside_the_text_is_refused(text):
    with pytest.raises(ValueError, match="give several targets as a list"):
        to_phrase(text)


@pytest.mark.parametrize("function", [find_target, to_phrase, describe])
@pytest.mark.parametrize("text", [None, 3, ["thyroid nodule"]])
def test_what_is_no_string_is_a_type_error(function, text):
    with pytest.raises(TypeError, match=f"{type(text).__name__}; expected a string"):
        function(text)


def test_the_description_is_the_papers_with_every_placeholder_filled():
    assert describe("TI-RADS nodules") == "thyroid nodule"
    assert describe("TI-RADS nodules", "description") == (
        "Segment and identify thyroid nodule within ultrasound images. This requires the precise delineation of "
        "thyroid nodule from surrounding tissues, enabling accurate diagnosis and assessment. The challenge "
        "encompasses dealing with the inherent variability of ultrasound image quality, including speckle noise, "
        "shadowing, and the wide range of anatomical variations among patients. Success in this task is measured by "
        "the algorithm's ability to consistently and accurately identify and outline the thyroid nodule, providing "
        "crucial information for medical decision-making processes."
    )


def test_another_template_and_free_text_fill_too():
    assert describe("Dark Rim", "description", "Find [target]; [target] only.") == "Find dark rim; dark rim only."


def test_unknown_forms_and_templates_without_placeholder_are_refused():
    with pytest.raises(ValueError, match="'essay'; accepted are phrase, description"):
        describe("kidney", "essay")
    with pytest.raises(ValueError, match=r"no \[target\]"):
        describe("kidney", "description", "Find the kidney.")


def test_mentions_are_the_spans_of_the_filled_placeholders():
    description = describe("lv", "description")
    spans = mention_spans(description, "left ventricle")
    assert len(spans) == PAPER_TEMPLATE.count("[target]") == 3
    assert [description[start:end] for start, end in spans] == ["left ventricle"] * 3
    assert spans[0] == (21, 35)


def test_mentions_ignore_case_and_line_breaks():
    assert mention_spans(THYROID_TEXT, "thyroid nodule") == [(2, 16), (49, 63)]
    assert mention_spans("Nodule, nodule's (nodule)", "NODULE") == [(0, 6), (8, 14), (18, 24)]


@pytest.mark.parametrize(
    ("description", "phrase"),
    [
        ("Outline the nodules.", "nodule"),
        ("A non-mass lesion.", "mass lesion"),
        ("The kidney-shaped one.", "kidney"),
        ("", "kidney"),
        ("a+b", "a.b"),
    ],
)
def test_only_whole_words_are_a_mention_and_none_is_an_error(description, phrase):
    with pytest.raises(ValueError, match="does not mention"):
        mention_spans(description, phrase)


def test_an_empty_phrase_is_refused():
    with pytest.raises(ValueError, match="at least one word"):
        mention_spans("anything", " ")


# Descriptions by a language model


class ChatHandler(BaseHTTPRequestHandler):
    """Answers every request with the server's `reply`, or with its `status` where that is an error."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(SimpleNamespace(path=self.path, headers=dict(self.headers), body=body))
        content = json.dumps(self.server.reply).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def completion(text: str | None, finish_reason: str = "stop") -> dict:
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "0", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


@pytest.fixture
def endpoint(monkeypatch):
    """A chat endpoint that describes a thyroid nodule; offline mode, which refuses any address, is off meanwhile."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_stored_token")
    server = ThreadingHTTPServer(("127.0.0.1", 0), ChatHandler)
    server.requests, server.status, server.reply = [], 200, completion(THYROID_TEXT)
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def writer(endpoint, tmp_path):
    return DescriptionWriter(model="writer-1", base_url=endpoint.url, api_key="key", cache_dir=tmp_path / "cache")


def test_the_papers_instruction_is_sent_with_the_target_filled_in(endpoint, writer):
    assert writer("TI-RADS nodules") == THYROID_TEXT
    (request,) = endpoint.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer key"
    assert request.body == {
        "model": "writer-1",
        "messages": [{"role": "user", "content": PAPER_INSTRUCTION.replace("[target]", "thyroid nodule")}],
        "temperature": 0,
        "stream": False,
    }


def test_the_stored_hub_token_stays_away_from_other_endpoints(endpoint, tmp_path):
    DescriptionWriter(base_url=endpoint.url, cache_dir=tmp_path)("thyroid nodule")
    assert endpoint.requests[0].headers["authorization"] == "Bearer unused"
    assert "hf_stored_token" not in json.dumps(endpoint.requests[0].headers)


def test_a_kept_answer_needs_no_request_and_no_client(endpoint, writer, monkeypatch):
    writer("thyroid nodule")
    monkeypatch.setattr(DescriptionWriter, "_new_client", lambda self: pytest.fail("a client was made"))
    again = DescriptionWriter(model="writer-1", cache_dir=writer.cache_dir)  # as in a later session, elsewhere
    assert again("nodule of the thyroid") == THYROID_TEXT
    assert len(endpoint.requests) == 1


def test_each_answer_is_one_json_file_that_says_where_it_comes_from(writer):
    writer("thyroid nodules")
    path = writer.cache_path("thyroid nodule")
    assert list(writer.cache_dir.iterdir()) == [path]  # no temporary file stays
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "model": "writer-1",
        "target": "thyroid nodule",
        "instruction": PAPER_INSTRUCTION.replace("[target]", "thyroid nodule"),
        "text": THYROID_TEXT,
    }


def test_a_write_that_fails_leaves_the_old_file_and_no_part_of_a_new_one(writer, monkeypatch):
    writer("thyroid nodule")
    path = writer.cache_path("thyroid nodule")
    path.write_bytes(b"damaged")

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr("ccsam_hf.files.os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        writer("thyroid nodule")
    assert list(writer.cache_dir.iterdir()) == [path] and path.read_bytes() == b"damaged"


def test_another_model_or_target_has_another_file(endpoint, writer):
    other = DescriptionWriter(model="writer-2", base_url=endpoint.url, cache_dir=writer.cache_dir)
    paths = {writer.cache_path("thyroid nodule"), other.cache_path("thyroid nodule"), writer.cache_path("kidney")}
    assert len(paths) == 3
    writer("thyroid nodule"), other("thyroid nodule")
    assert [request.body["model"] for request in endpoint.requests] == ["writer-1", "writer-2"]


@pytest.mark.parametrize(
    "content", [b"", b'{"text": "thyroid', b"\xff\xfe", b"[]", b"{}", b'{"model": "writer-1", "text": 3}']
)
def test_a_damaged_cache_file_is_reported_and_written_anew(endpoint, writer, caplog, content):
    writer("thyroid nodule")
    path = writer.cache_path("thyroid nodule")
    intact = path.read_bytes()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="ccsam_hf.descriptions"):
        assert writer("thyroid nodule") == THYROID_TEXT
    assert str(path) in caplog.text and "written anew" in caplog.text
    assert path.read_bytes() == intact
    assert len(endpoint.requests) == 2


def test_a_kept_text_without_the_target_or_of_another_instruction_is_damaged_too(endpoint, writer):
    writer("thyroid nodule")
    path = writer.cache_path("thyroid nodule")
    entry = json.loads(path.read_text(encoding="utf-8"))
    for change in ({"text": "Outline it."}, {"text": None}, {"instruction": "Write a poem."}, {"model": "writer-2"}):
        path.write_text(json.dumps(entry | change), encoding="utf-8")
        assert writer("thyroid nodule") == THYROID_TEXT
    assert len(endpoint.requests) == 5


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (completion(""), "empty description of 'thyroid nodule'"),
        (completion(None), "empty description of 'thyroid nodule'"),
        (completion("Outline the lump."), "without naming the target.*'Outline the lump.'"),
        (completion("A thyroid nodule is", "length"), "cut its description.*'A thyroid nodule is'"),
        ({"choices": []}, "asking writer-1 at http://127.0.0.1.* failed: IndexError"),
        (["no completion"], "asking writer-1 at http://127.0.0.1.* failed"),
    ],
)
def test_an_answer_that_is_no_description_is_an_error_and_not_kept(endpoint, writer, reply, message):
    endpoint.reply = reply
    with pytest.raises(RuntimeError, match=message):
        writer("thyroid nodule")
    assert not writer.cache_dir.exists()


@pytest.mark.parametrize("status", [401, 404, 503])
def test_an_error_of_the_endpoint_is_one_runtime_error_that_says_what_came(endpoint, writer, status):
    endpoint.status, endpoint.reply = status, {"error": "not today"}
    with pytest.raises(RuntimeError, match=rf"writer-1 at {endpoint.url} .* failed: .*{status}.*check"):
        writer("thyroid nodule")
    assert len(endpoint.requests) == 1
    assert not writer.cache_dir.exists()


def test_an_endpoint_that_is_not_there_is_a_runtime_error(endpoint, tmp_path):
    url = endpoint.url
    endpoint.shutdown()
    endpoint.server_close()
    with pytest.raises(RuntimeError, match=f"asking {url} .* failed: ConnectError"):
        DescriptionWriter(base_url=url, cache_dir=tmp_path)("kidney")


def test_offline_mode_is_a_runtime_error_that_names_it(tmp_path):
    writer = DescriptionWriter(base_url="http://127.0.0.1:9/v1", cache_dir=tmp_path)
    with pytest.raises(RuntimeError, match="HF_HUB_OFFLINE.*asks nobody"):
        writer("kidney")


def test_a_client_of_the_user_is_asked_instead_of_a_new_one(tmp_path):
    calls = []

    class Client:
        model = "mine"

        def chat_completion(self, messages, model, temperature):
            calls.append((messages, model, temperature))
            message = SimpleNamespace(content=" The kidney. ")
            return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])

    writer = DescriptionWriter(client=Client(), cache_dir=tmp_path)
    assert writer("Kidneys") == writer("kidney") == "The kidney."
    instruction = PAPER_INSTRUCTION.replace("[target]", "kidney")
    assert calls == [([{"role": "user", "content": instruction}], None, 0)]


def test_answers_are_kept_in_hugging_faces_cache_home_by_default(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
    assert DescriptionWriter(model="writer-1").cache_dir == tmp_path / "ccsam" / "descriptions"
    assert DescriptionWriter(model="writer-1", cache_dir="here").cache_dir == Path("here")


def test_a_writer_without_a_model_and_a_model_that_is_an_address_are_refused():
    with pytest.raises(ValueError, match="neither model nor base_url"):
        DescriptionWriter()
    with pytest.raises(ValueError, match="as base_url"):
        DescriptionWriter(model="http://127.0.0.1:9/v1")


def test_a_target_that_is_no_phrase_reaches_no_endpoint(endpoint, writer):
    with pytest.raises(ValueError, match="give several targets as a list"):
        writer("kidney. liver")
    assert not endpoint.requests


US30K = ["breast lesion", "thyroid nodule", "thyroid gland", "left ventricle", "myocardium", "left atrium"]


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("left ventricel", ["left ventricle", "myocardium"]),  # a slip, also near "left ventricle wall"
        ("right ventricle", ["left ventricle", "left atrium", "myocardium"]),  # of one organ
        ("cyst in the breast", ["breast lesion"]),
        ("thyroid cyst", ["thyroid gland", "thyroid nodule"]),
        ("fetal head", []),
        ("Schilddrüse", []),
    ],
)
def test_what_a_text_may_have_meant_is_found_by_letters_words_and_organ(text, nearest):
    assert nearest_targets(text, US30K) == nearest
    assert nearest_targets(text, US30K, count=1) == nearest[:1]


def test_a_name_outside_the_registry_can_be_near_too():
    assert nearest_targets("tendons", ["tendon", "kidney"]) == ["tendon"]


def test_commas_semicolons_and_lines_separate_targets():
    assert split_targets("breast lesion, left ventricle") == ["breast lesion", "left ventricle"]
    assert split_targets(["gland;nodule\ncyst", "liver,"]) == ["gland", "nodule", "cyst", "liver"]
    assert split_targets("nodule") == ["nodule"] and split_targets("") == [""] and split_targets([3]) == [3]
