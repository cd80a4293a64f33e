"""The real scorers: a tiny Mask2Former and CLIP run through GenEval's path, RapidOCR reads clean text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
    ViltConfig,
    ViltForQuestionAnswering,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from deepgen.evaluation.benchmark import Item, settings_with
from deepgen.evaluation.benchmarks import cvtg2k, load_benchmark
from deepgen.evaluation.make_scorers import ScorerConfig, make_scorers
from deepgen.evaluation.report import markdown, read_results
from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from deepgen.rewards.detector import COLORS, Mask2FormerDetector
from deepgen.rewards.remote_scorers import RemoteReader
from deepgen.rewards.reward import RewardUnavailable
from deepgen.shapes.vocabulary import MAX_TOKENS, write_tokenizer
from evaluation.benchmark_files import NoiseModel, write_all
from evaluation.stub_scorers import VERSION, stub_scorers
from rewards.reward_server import serving


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": MAX_TOKENS, "max_position_embeddings": 12, "eos_token_id": 1}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory):
    pytest.importorskip(
        "scipy", reason="transformers' Mask2Former asks for scipy: pip install 'deepgen-image[eval]'"
    )
    path = tmp_path_factory.mktemp("mask2former")
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=swin,
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        encoder_feedforward_dim=16,
        num_queries=6,
        id2label={0: "person", 1: "mouse", 2: "cat"},
    )
    Mask2FormerForUniversalSegmentation(config).save_pretrained(path)
    return path


def test_the_real_path_of_geneval_runs_on_tiny_random_networks(mask2former, clip):
    config = ScorerConfig(detector=str(mask2former), clip=str(clip), device="cpu")
    finder = make_scorers(config, ["detector"]).detector
    assert isinstance(finder, Mask2FormerDetector)
    assert finder.names == {0: "person", 1: "computer mouse", 2: "cat"}
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    found = finder(image)
    assert found, "six queries of a random network find something"
    for name, boxes in found.items():
        assert [box[4] for box in boxes] == sorted((box[4] for box in boxes), reverse=True)
        assert all(0 <= box[0] < box[2] <= 64 and 0 <= box[1] < box[3] <= 48 for box in boxes)
        colors = finder.colors(image, name, range(len(boxes)))
        assert len(colors) == len(boxes)
        assert set(colors) <= set(COLORS)
        finder(Image.new("RGB", (8, 8)))  # another picture in between changes nothing
        assert finder.colors(image, name, range(len(boxes))) == colors
    row = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a red cat"}
    item = Item(id="00000", category="colors", prompt="a red cat", metadata=row)
    score = load_benchmark("geneval").score(item, [image], Scorers(detector=finder))
    assert score.value in (0, 1)
    assert "seen:" in score.words


# --- a local model that answers questions -------------------------------------------------------------------

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def vilt(tmp_path_factory):
    path = tmp_path_factory.mktemp("vilt")
    torch.manual_seed(0)
    labels = {0: "yes", 1: "No", 2: "red"}
    config = ViltConfig(
        **SMALL,
        vocab_size=MAX_TOKENS,
        max_position_embeddings=12,
        image_size=32,
        patch_size=8,
        id2label=labels,
    )
    ViltForQuestionAnswering(config).save_pretrained(path)
    ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8).save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    path = tmp_path_factory.mktemp("blip")
    torch.manual_seed(0)
    text = {**SMALL, "encoder_hidden_size": 16, "vocab_size": MAX_TOKENS, "max_position_embeddings": 12}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(path)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.mark.parametrize("family", ["vilt", "blip"])
def test_a_tiny_random_vqa_model_answers_a_question_of_any_length(family, request):
    path = request.getfixturevalue(family)
    vqa = make_scorers(ScorerConfig(vqa=str(path), device="cpu"), ["vqa"]).vqa
    image = Image.new("RGB", (48, 40), "red")
    answers = {vqa(image, "is there a red circle" + " and a star" * times) for times in (0, 40)}
    assert all(answer == answer.strip().lower() for answer in answers)
    assert vqa(image, "is it red") == vqa(image, "is it red")
    if family == "vilt":
        assert answers <= {"yes", "no", "red"}
    assert vqa.version == f"{path}-{type(vqa._model).__name__}"


def test_dpg_is_scored_by_a_local_model_and_the_report_names_it(vilt, tmp_path):
    data = write_all(tmp_path / "data")
    scorers = make_scorers(ScorerConfig(vqa=str(vilt), device="cpu"), ["vqa"])
    benchmark = load_benchmark("dpg:vqa")
    settings = settings_with(benchmark.settings, height=16, width=16)
    config = RunConfig(output_dir=tmp_path / "run", data_dir=data, allow_altered=True)
    result = run(benchmark, NoiseModel(), settings, config, scorers)
    assert result["num_judged"] == result["num_expected"] == 8
    assert str(vilt) in result["manifest"]["scorer"]
    text = markdown(read_results([tmp_path / "run"], num_draws=0))
    assert "dpg-vqa" in text
    assert "not the official mPLUG-large" in text


def test_answers_of_a_local_model_are_counted_as_the_official_scorer_counts(tmp_path):
    class Eyes:
        version = "vqa-1"

        def __call__(self, image, question):
            return "yes" if "(1)" in question else "two"  # anything but the bare word is a no

    data = write_all(tmp_path / "data")
    benchmark = load_benchmark("dpg:vqa", "fixed")
    settings = settings_with(benchmark.settings, height=16, width=16)
    config = RunConfig(output_dir=tmp_path / "run", data_dir=data, allow_altered=True)
    result = run(benchmark, NoiseModel(), settings, config, Scorers(vqa=Eyes()))
    assert result["table"]["overall"] == 50
    assert result["manifest"]["scorer"].startswith("dpg-vqa-2-fixed vqa-1 ")
    with pytest.raises(ValueError, match="needs a vqa; give --vqa"):
        run(benchmark, NoiseModel(), settings, config, Scorers())


def test_a_model_of_another_family_is_refused(clip):
    with pytest.raises(ValueError, match="is a clip; for questions give blip or vilt"):
        make_scorers(ScorerConfig(vqa=str(clip)), ["vqa"])


# --- reading ------------------------------------------------------------------------------------------------

SIGNS = (
    *("OPEN DAILY", "FRESH BREAD", "WELCOME HOME", "STATION NORTH", "SUMMER SALE", "COFFEE TO GO"),
    *("Mind the gap", "Happy Birthday", "Grand Hotel", "Platform nine", "Quiet please", "Exit only"),
    *("Level 12 Room 407", "Est 1984", "Gate B7", "Tickets 25", "Bus 38", "Call 555 0199"),
)
LOOKS = (("white", "black", 44), ("navy", "white", 40), ("#ffe9a8", "#7a1020", 34))


def rendered(lines, paper, ink, size):
    image = Image.new("RGB", (480, 64 * len(lines) + 16), paper)
    for index, line in enumerate(lines):
        ImageDraw.Draw(image).text((20, 12 + 64 * index), line, fill=ink, font_size=size)
    return image


def test_rapidocr_reads_clean_words_with_an_accuracy_of_95_percent():
    pytest.importorskip(
        "rapidocr", reason="the reader is in the eval extra: pip install 'deepgen-image[eval]'"
    )
    reader = make_scorers(ScorerConfig(), ["reader"]).reader
    rows = []
    for first, look in zip((0, 6, 12), LOOKS, strict=True):
        lines = SIGNS[first : first + 6]
        targets = cvtg2k.target_words(" and ".join(f"'{line}'" for line in lines))
        read = cvtg2k.read_words(reader(rendered(lines, *look)))
        rows.append({"area": 5, **cvtg2k.match(targets, read)})
    accuracy = cvtg2k.aggregate(rows)["word_accuracy"]
    print(f"word accuracy {accuracy:.4f} of {sum(row['words'] for row in rows)} words")
    assert accuracy >= 0.95


# --- scorers behind a service -------------------------------------------------------------------------------


def test_a_service_reads_and_detects_over_http():
    with serving(stub_scorers()) as server:
        config = ScorerConfig(ocr=server.url, detector=server.url)
        scorers = make_scorers(config, ["reader", "detector"])
        image = Image.new("RGB", (16, 16), "red")
        assert scorers.reader(image) == ["Word0 the"]
        assert scorers.detector(image) == {"cat": [(0, 0, 9, 9, 0.95), (0, 0, 9, 9, 0.2)]}
        assert scorers.detector.colors(image, "cat", [1]) == ["red"]
        assert scorers.detector.colors(image, "dog", []) == []
        paths = [path for path, _ in server.requests]
        assert paths == ["/health", "/health", "/read", "/detect", "/colors"], "detected once for both"
        assert scorers.version("reader") == f"{server.url} {VERSION}"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"version": "other", "lines": []}, "verdicts of two versions do not mix"),
        ({"version": VERSION}, "answered without 'lines'"),
        ({"version": VERSION, "lines": "all"}, "lines are a list of texts"),
        ({"lines": []}, "does not say its version"),
    ],
)
def test_a_service_that_answers_with_something_else_is_no_verdict(reply, message):
    answers = iter([(200, {"version": VERSION}), (200, reply)])
    with serving(lambda *asked: next(answers)) as server:
        reader = RemoteReader(server.url)
        with pytest.raises(RewardUnavailable, match=message):
            reader(Image.new("RGB", (4, 4)))


def test_a_service_that_dies_is_a_problem_of_the_items_it_did_not_see(tmp_path):
    data = write_all(tmp_path / "data")
    fine, count = stub_scorers(), iter(range(100))

    def dies(path, document):
        return (500, "gone") if path == "/read" and next(count) >= 6 else fine(path, document)

    with serving(dies) as server:
        reader = RemoteReader(server.url, retries=0)
        config = RunConfig(output_dir=tmp_path, data_dir=data, allow_altered=True, allow_partial=True)
        benchmark = load_benchmark("cvtg2k")
        settings = settings_with(benchmark.settings, height=16, width=16)
        result = run(benchmark, NoiseModel(), settings, config, Scorers(reader=reader))
    assert (result["num_judged"], result["num_expected"]) == (6, 8)
    assert all("answered 500: gone" in problem for problem in result["problems"])
    assert len(result["problems"]) == 2


def test_an_engine_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="unknown OCR 'tesseract'; give rapidocr or the http:// address"):
        make_scorers(ScorerConfig(ocr="tesseract"), ["reader"])
