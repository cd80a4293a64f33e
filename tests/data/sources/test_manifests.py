"""The original's three manifests, our own records, and plain folders."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from deepgen.data.example import RowError
from deepgen.data.mixture_file import place_options
from deepgen.data.sources import make_source, source_names
from images_on_disk import write_image


def write_json(path: Path, content) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def write_lines(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --- format A ---


def caption_pairs(folder: Path, key: str = "re_caption", **options):
    write_json(folder / "captions" / "0" / "1.json", {"caption": "alt text", "re_caption": "a red star"})
    manifest = write_json(folder / "data.json", [{"image": "0/1.jpg", "annotation": "0/1.json"}])
    return make_source(
        "caption_pair",
        path=manifest,
        image_dir=str(folder / "raw"),
        caption_dir=str(folder / "captions"),
        caption_key=key,
        **options,
    )


def test_a_caption_pair_takes_the_text_under_the_named_key(tmp_path) -> None:
    source = caption_pairs(tmp_path)
    assert (len(source), source.task) == (1, "generate")
    example = source[0]
    assert (example.text, example.target) == ("a red star", tmp_path / "raw" / "0" / "1.jpg")
    assert example.key == f"{tmp_path / 'data.json'}:0"
    assert (example.limits.min_side, example.limits.max_ratio) == (80, 10)
    assert caption_pairs(tmp_path, key="caption")[0].text == "alt text"


def test_a_wrong_caption_key_is_refused_with_those_found(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected a field 'prompt', found the fields: caption, re_caption"):
        caption_pairs(tmp_path, key="prompt")


def test_a_missing_or_broken_annotation_is_a_bad_row(tmp_path) -> None:
    rows = [{"image": "1.jpg", "annotation": f"{name}.json"} for name in ("good", "gone", "broken", "list")]
    write_json(tmp_path / "good.json", {"caption": "yes"})
    write_json(tmp_path / "list.json", ["no"])
    (tmp_path / "broken.json").write_text("{")
    manifest = write_json(tmp_path / "data" / "all.json", rows)
    folder = str(tmp_path)
    source = make_source(
        "caption_pair", path=manifest, image_dir=folder, caption_dir=folder, caption_key="caption"
    )
    assert source[0].text == "yes"
    for row, message in ((1, "cannot read its caption"), (2, "not valid JSON"), (3, "expected an object")):
        with pytest.raises(RowError, match=f"all.json:{row}: .*{message}"):
            source[row]


# --- formats B and C ---


def test_t2i_sft_takes_inline_text(tmp_path) -> None:
    rows = [{"type": "T2I_SFT", "txt": "一只猫", "image_path": "a.jpg", "image": ""}]
    source = make_source("t2i_sft", path=write_json(tmp_path / "a.json", rows), image_dir=str(tmp_path))
    assert (source[0].text, source[0].target, source.task) == ("一只猫", tmp_path / "a.jpg", "generate")


def test_without_a_folder_paths_are_taken_as_they_are(tmp_path) -> None:
    beside = str(tmp_path / "b.jpg")
    rows = [{"txt": "a", "image_path": place} for place in ("a.jpg", beside, "/c.jpg")]
    path = write_json(tmp_path / "a.json", rows)
    source = make_source("t2i_sft", path=path)
    assert [source[0].target, source[1].target] == [Path("a.jpg"), Path(beside)]
    with pytest.raises(RowError, match=f"names '/c.jpg', which lies outside of .* and {tmp_path};"):
        source[2]
    assert make_source("t2i_sft", path=path, outside=True)[2].target == Path("/c.jpg")


def test_an_edit_keeps_every_input_picture(tmp_path) -> None:
    rows = [
        {"input_image": ["a.png", "b.png"], "output_image": "c.png", "instruction": "join them"},
        {"input_image": "a.png", "output_image": "c.png", "instruction": "one"},
        {"input_image": [], "output_image": "c.png", "instruction": "none"},
    ]
    source = make_source("edit", path=write_json(tmp_path / "a.json", rows), image_dir=str(tmp_path))
    assert source[0].references == (tmp_path / "a.png", tmp_path / "b.png")
    assert source[1].references == (tmp_path / "a.png",)
    with pytest.raises(RowError, match="needs at least one input picture"):
        source[2]


def test_a_folder_of_manifests_is_one_source(tmp_path) -> None:
    for name in "ba":
        write_json(tmp_path / f"{name}.json", [{"txt": name, "image_path": "x"}])
    source = make_source("t2i_sft", path=str(tmp_path))
    assert [source[0].text, source[1].text] == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "row", "message"),
    [
        ("t2i_sft", {"text": "a", "image_path": "a"}, "a.json:0: expected a field 'txt', found the fields"),
        ("t2i_sft", {"txt": 3, "image_path": "a"}, "expected text in field 'txt', found int 3"),
        ("t2i_sft", {"txt": "a", "image_path": ""}, "expected a path in field 'image_path', found str ''"),
        ("edit", {"input_image": [3], "output_image": "a", "instruction": ""}, "path in field 'input_image'"),
        ("edit", {"input_image": ["a"], "instruction": "a"}, "expected a field 'output_image'"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_with_file_row_and_what_was_found(tmp_path, source, row, message) -> None:
    with pytest.raises(ValueError, match="none of the first rows") as error:
        make_source(source, path=write_json(tmp_path / "a.json", [row]))
    assert message in str(error.value)


def test_one_bad_row_does_not_refuse_the_manifest(tmp_path) -> None:
    rows = [{"wrong": 1}, {"txt": "good", "image_path": "a"}]
    source = make_source("t2i_sft", path=write_json(tmp_path / "a.json", rows))
    assert (len(source), source[1].text) == (2, "good")


# --- normalised records ---


def test_a_record_round_trips(tmp_path) -> None:
    rows = [
        {
            "id": "1", "task": "edit", "text": "t", "refs": ["a.png", "/b.png"], "target": "c.png",
            "size": [10, 20], "ref_sizes": [[1, 2], [3, 4]], "language": "en",
        },
        {"id": "2", "task": "edit", "text": "t", "refs": ["a.png"], "target": "c.png"},
    ]  # fmt: skip
    source = make_source("jsonl", path=write_lines(tmp_path / "a.jsonl", rows), outside=True)
    example = source[0]
    assert example.references == (tmp_path / "a.png", Path("/b.png"))
    assert (example.size, example.reference_sizes, example.language) == ((10, 20), ((1, 2), (3, 4)), "en")
    assert (source.task, source[1].size, source[1].reference_sizes) == ("edit", None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "paint"}, "expected task"),
        ({"task": "generate"}, "expected task edit, found 'generate'"),
        ({"size": [0, 1]}, "expected \\[height, width\\]"),
        ({"ref_sizes": [[1, 2], [3, 4]]}, "1 input pictures but 2 sizes"),
        ({"refs": []}, "needs at least one input picture"),
    ],
)
def test_a_wrong_record_is_a_bad_row(tmp_path, change, message) -> None:
    good = {"id": "1", "task": "edit", "text": "t", "refs": ["a.png"], "target": "c.png"}
    source = make_source("jsonl", path=write_lines(tmp_path / "a.jsonl", [good, {**good, **change}]))
    with pytest.raises(RowError, match=f"a.jsonl:1: .*{message}"):
        source[1]


def test_a_broken_first_line_does_not_hide_the_task(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"task": \n{"task": "generate", "text": "a", "target": "a.png"}\n')
    assert make_source("jsonl", path=str(path))[1].text == "a"
    path.write_text('{"text": "a", "target": "a.png"}\n')
    with pytest.raises(ValueError, match="names its task"):
        make_source("jsonl", path=str(path))


# --- folders ---


def test_a_folder_pairs_pictures_with_texts_of_the_same_name(tmp_path) -> None:
    for name in ("b.png", "a.jpg"):
        write_image(tmp_path / name, 0)
        (tmp_path / name).with_suffix(".txt").write_text(f"picture {name}\n")
    source = make_source("folder", path=str(tmp_path))
    assert [source[row].text for row in range(len(source))] == ["picture a.jpg", "picture b.png"]
    assert source[1].target == tmp_path / "b.png"


def test_pictures_without_a_text_are_named_unless_one_is_given_for_all(tmp_path) -> None:
    write_image(tmp_path / "a.png", 0)
    write_image(tmp_path / "b.png", 1)
    (tmp_path / "b.txt").write_text("its own")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 pictures .* have no caption \(a.png\)"):
        make_source("folder", path=str(tmp_path))
    source = make_source("folder", path=str(tmp_path), caption="a photo of sks")
    assert [source[0].text, source[1].text] == ["a photo of sks", "its own"]


def test_a_folder_may_describe_itself_in_metadata(tmp_path) -> None:
    write_lines(
        tmp_path / "metadata.jsonl", [{"file_name": "o.png", "text": "redder", "references": ["i.png"]}]
    )
    example = make_source("folder", path=str(tmp_path), task="edit")[0]
    assert (example.target, example.references) == (tmp_path / "o.png", (tmp_path / "i.png",))


def test_a_missing_or_empty_folder_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        make_source("folder", path=str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="holds no picture"):
        make_source("folder", path=str(tmp_path))


# --- every source ---


def test_the_folder_is_the_registry() -> None:
    formats = {"caption_pair", "t2i_sft", "edit", "jsonl", "folder", "parquet", "webdataset", "huggingface"}
    assert formats <= set(source_names())


@pytest.mark.parametrize("name", source_names())
def test_a_source_that_reads_files_names_their_place_path(name: str) -> None:
    places = place_options(name)
    assert not places or places[0] == "path"


def test_everything_wrong_with_the_options_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="source caption_pair") as error:
        make_source(
            "caption_pair", image_folder="x", caption_key=3, image_dir="a", caption_dir="b", min_side=True
        )
    for message in (
        "unknown option 'image_folder'; caption_pair has: path, image_dir",
        "path is missing",
        "caption_key must be text, got 3",
        "min_side must be a whole number, got True",
    ):
        assert message in str(error.value)
    with pytest.raises(ValueError, match="unknown source 'csv'; known: caption_pair, edit"):
        make_source("csv")
    with pytest.raises(ValueError, match="task must be generate or edit"):
        make_source("folder", path=".", task="paint")
    with pytest.raises(ValueError, match="max_ratio > 1"):
        make_source("caption_pair", path="a", image_dir="", caption_dir="", caption_key="a", max_ratio=1)


def test_a_source_can_be_sent_to_a_worker(tmp_path) -> None:
    source = caption_pairs(tmp_path)
    assert pickle.loads(pickle.dumps(source))[0] == source[0]
