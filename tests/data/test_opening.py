"""What a path to training data is: folders as users have them, one answer for every command."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deepgen.cli import main
from deepgen.data import folder_layout, opening
from deepgen.data.cache import outline
from deepgen.data.mixture import Mixture
from deepgen.data.opening import open_data, recognise
from deepgen.extras import install_hint
from deepgen.image_formats import SUFFIXES, missing_reader
from deepgen.recipes import recipe
from deepgen.training.overrides import override
from deepgen.training.parallel import Processes
from deepgen.training.start import Start
from images_on_disk import write_image

CASES = Path(__file__).parent / "cases"  # folders and tars as users sent them


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """The tars among them; kept packed, since most of a tar is zeros."""
    for packed in (CASES / "tars").iterdir():
        (tmp_path / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    return tmp_path


@pytest.fixture(autouse=True)
def no_extra_formats(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As for users without the extra `images`, and with an index folder of one's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if "with_extra" not in request.fixturenames:

        def missing(suffix: str) -> str | None:
            return install_hint("images") if suffix in (".heic", ".heif", ".jxl") else missing_reader(suffix)

        monkeypatch.setattr(folder_layout, "missing_reader", missing)


@pytest.fixture
def with_extra() -> None:
    pytest.importorskip("pillow_heif")
    pytest.importorskip("pillow_jxl")


def rows(mixture: Mixture) -> list[tuple[str, str]]:
    """(name of the picture, text) of every row."""
    (source,) = mixture.sources.values()
    examples = [source[index] for index in range(len(source))]
    return [(getattr(example.target, "name", ""), example.text) for example in examples]


def say(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What a command prints, on either stream."""
    assert main(list(arguments)) == code
    said = capsys.readouterr()
    return said.out + said.err


# --- folders as users sent them


def test_kohyas_folders_repeat_their_pictures(capsys) -> None:
    mixture = open_data(CASES / "kohya_folders")
    assert rows(mixture) == [("a.png", "a red circle")] * 10 + [("b.png", "b")]
    said = say(capsys, "data", "stats", str(CASES / "kohya_folders"))
    for words in ("11 rows", "10_dgx circle: 1 picture x 10", "1_reg: 1 picture x 1"):
        assert words in said


def test_hugging_faces_imagefolder_is_a_folder_of_pictures_and_its_metadata_is_the_same(capsys) -> None:
    assert rows(open_data(CASES / "imagefolder")) == [("a.png", "a red circle")]
    assert recognise(CASES / "imagefolder" / "metadata.jsonl").path == CASES / "imagefolder"
    assert "1 rows" in say(capsys, "data", "stats", str(CASES / "imagefolder"))


def test_what_a_mac_left_beside_pictures_is_passed_over_and_said_once(capsys) -> None:
    assert [name for name, _ in rows(open_data(CASES / "mac_sidecars"))] == [f"{n}.png" for n in range(1, 5)]
    said = say(capsys, "data", "stats", str(CASES / "mac_sidecars"))
    assert said.count("passed over: 8 files of the system (._1.png, ._1.txt, ._2.png, ...)") == 1


def test_every_ending_that_can_be_opened_is_a_row_and_the_rest_is_named(capsys) -> None:
    found = [name for name, _ in rows(open_data(CASES / "mixed_suffixes"))]
    assert found == ["a.jfif", "c.png", "d.JPG", "e.jpe", "f.ppm"]
    said = say(capsys, "data", "stats", str(CASES / "mixed_suffixes"))
    assert f"left out: 1 picture (b.heic); reading .heic needs {install_hint('images')}" in said


@pytest.mark.parametrize(("name", "count"), [("unsorted", 20), ("mac", 20)])
def test_tars_of_users_are_read_whole(tars: Path, capsys, name: str, count: int) -> None:
    mixture = open_data(tars / f"{name}.tar")
    assert [text for _, text in rows(mixture)] == ["a red circle"] * count
    said = say(capsys, "data", "stats", str(tars / f"{name}.tar"))
    assert "bad rows    0 of 20" in said
    assert ("60 members that a Mac left (._*) are passed over" in said) == (name == "mac")


def test_a_tar_that_is_cut_in_a_header_is_refused_or_has_bad_rows_that_say_so(tars: Path, capsys) -> None:
    where = "cut_in_header.tar is cut in a header at byte 4,608 of 4,808"
    assert where in say(capsys, "data", "stats", str(tars / "cut_in_header.tar"), code=2)
    (tars / "both").mkdir()
    for name in ("cut_in_header.tar", "unsorted.tar"):
        shutil.copy(tars / name, tars / "both" / f"{'b' if name.startswith('cut') else 'a'}_{name}")
    said = say(capsys, "data", "stats", str(tars / "both"), code=1)
    for words in ("22 rows", "bad rows    2 of 22", f"{where}; what stood behind is missing"):
        assert words in said


# --- one answer for all commands, and before a model is loaded


def settings(path: Path, **changes: str) -> Any:
    return override(recipe("lora"), {"model": "tiny", "data": str(path), **changes})


@pytest.mark.parametrize(
    "name",
    ["kohya_folders", "imagefolder", "mac_sidecars", "mixed_suffixes", "unsorted.tar", "mac.tar"],
)
def test_training_and_every_command_agree_on_what_a_path_is(tars: Path, capsys, name: str) -> None:
    path = tars / name if name.endswith(".tar") else CASES / name
    trained = settings(path).open_data(Processes("cpu"))
    (stats,) = json.loads(say(capsys, "data", "stats", str(path), "--json"))["sources"]
    assert stats["rows"] == len(next(iter(trained.sources.values())))
    assert tuple(stats["notes"]) == tuple(note.partition(": ")[2] for note in trained.notes)
    sheet = tars / "sheet.png"
    assert f"{sheet}  " in say(capsys, "data", "inspect", str(path), "-o", str(sheet), "-n", "2")
    made = tars / "converted.jsonl"
    assert f"{stats['rows']} rows, 0 left out" in say(capsys, "data", "convert", str(path), str(made))
    assert outline(trained) == outline(open_data(path))  # so a cache that one made serves the other


def test_data_that_cannot_be_used_is_refused_before_a_model_is_loaded(tars, monkeypatch) -> None:
    monkeypatch.setattr(Start, "load", lambda *_: pytest.fail("the model was loaded"))
    (tars / "empty").mkdir()
    write_image(tars / "lone" / "a.png", 0)
    for path, words in [
        (tars / "gone", "there is nothing at"),
        (tars / "empty", "holds no picture; known: .png"),
        (tars / "lone", r"1 of 1 pictures in .* have no caption \(a.png\)"),
        (tars / "cut_in_header.tar", "is cut in a header"),
    ]:
        with pytest.raises((ValueError, OSError), match=words):
            settings(path).build(Processes("cpu"))
    with pytest.raises((ValueError, OSError), match="there is nothing at"):
        settings(CASES / "kohya_folders", **{"validation.data": str(tars / "gone")}).build(Processes("cpu"))


def test_options_of_a_source_reach_training(tmp_path) -> None:
    write_image(tmp_path / "a.png", 0)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "a star"}\n')
    with pytest.raises(
        ValueError, match="expected a text in 'text', found: caption; name it with text=FIELD"
    ):
        settings(tmp_path).open_data(Processes("cpu"))
    chosen = settings(tmp_path, data_options="text=caption")
    assert rows(chosen.open_data(Processes("cpu"))) == [("a.png", "a star")]
    with pytest.raises(ValueError, match="data option 'caption' is not name=value; try text=caption"):
        settings(tmp_path, data_options="caption")


@pytest.mark.slow
def test_a_plan_takes_any_data_too(tars: Path, capsys) -> None:
    said = say(capsys, "train", "plan", "lora", "--model", "tiny", "--data", str(tars / "unsorted.tar"))
    assert "memory" in said


# --- what paths are


def test_paths_are_told_apart_by_their_names_and_first_rows(tmp_path) -> None:
    record = '{"task": "generate", "text": "a", "target": "a.png"}\n'
    (tmp_path / "rows.jsonl").write_text(record)
    (tmp_path / "Other.YAML").write_text("tasks: {}")
    for folder, file in (("tables", "0.parquet"), ("tars", "0.tar"), ("lines", "0.jsonl")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_bytes(record.encode())
        (tmp_path / folder / f"._{file}").write_bytes(b"of a Mac")
    found = {
        name: (recognise(tmp_path / name).kind, recognise(tmp_path / name).source)
        for name in ("rows.jsonl", "Other.YAML", "tables", "tars", "lines")
    }
    assert found == {
        "rows.jsonl": ("source", "jsonl"),
        "Other.YAML": ("mixture", ""),
        "tables": ("source", "parquet"),
        "tars": ("source", "webdataset"),
        "lines": ("source", "jsonl"),
    }
    assert recognise("stage1").path == opening.SHIPPED_DIR / "stage1.yaml"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.png", "a.png is one picture; give the folder it lies in"),
        ("a.zip", "a.zip is packed; unpack it first"),
        ("a.tar.gz", "is packed; unpack it first"),
        ("a.json", "say --source FORMAT"),
        ("a.csv", "say --source FORMAT"),
        ("rows.jsonl", "names pictures by file_name; call it metadata.jsonl"),
        ("mixed", "holds files of parquet and webdataset; say which"),
        ("both", "has metadata.jsonl and metadata.csv; keep the one that is meant"),
        ("outer", r"its folders cats, dogs do: give one of them, or name them as kohya does \(1_cats, ...\)"),
        ("splits", "a metadata file lies in train: give that folder"),
    ],
)
def test_a_path_that_is_no_data_says_what_to_give_instead(tmp_path, name, message) -> None:
    for file in ("a.png", "a.zip", "a.tar.gz", "a.json", "a.csv"):
        (tmp_path / file).write_bytes(b"x")
    (tmp_path / "rows.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n')
    for file in ("mixed/a.tar", "mixed/a.parquet", "both/metadata.jsonl", "both/metadata.csv"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    for file in ("outer/cats/a.png", "outer/dogs/a.png", "splits/train/a.png"):
        write_image(tmp_path / file, 0)
    (tmp_path / "splits" / "train" / "metadata.jsonl").write_text("")
    with pytest.raises((ValueError, OSError), match=message):
        open_data(tmp_path / name)


# --- what else lies in folders


def test_everything_that_is_no_row_is_counted(tmp_path) -> None:
    for name in ("a.png", "b.JPEG", "raw/c.png", "raw/deep/d.webp", "__MACOSX/e.png"):
        write_image(tmp_path / name, 0)
    write_image(tmp_path / "x.png", 0).rename(tmp_path / "new.HeIc")
    for name in (
        "a.txt",
        "a.caption",
        "b.Caption",
        "lost.txt",
        "Thumbs.db",
        ".DS_Store",
        "notes.pdf",
        "f.psd",
    ):
        (tmp_path / name).write_text(name)
    mixture = open_data(tmp_path)
    assert rows(mixture) == [("a.png", "a.txt"), ("b.JPEG", "b.Caption")]
    assert [note.partition(": ")[2] for note in mixture.notes] == [
        f"left out: 1 picture (new.HeIc); reading .heic needs {install_hint('images')}",
        "passed over: 3 files of the system (.DS_Store, Thumbs.db, __MACOSX)",
        "left out: 1 file with a text and no picture (lost.txt)",
        "left out: 1 file with a second text of a picture (a.caption)",
        "left out: 2 pictures in the folder raw",
        "left out: 2 files of other kinds (1 .psd, 1 .pdf)",
    ]


def test_kohyas_folders_without_captions_get_their_words_and_others_are_named(tmp_path) -> None:
    write_image(tmp_path / "3_a dgx cat" / "a.png", 0)
    write_image(tmp_path / "2_said" / "b.png", 0)
    (tmp_path / "2_said" / "b.caption").write_text("as it says\n")
    write_image(tmp_path / "0_none" / "c.png", 0)
    write_image(tmp_path / "log" / "d.png", 0)
    mixture = open_data(tmp_path)
    assert rows(mixture) == [("b.png", "as it says")] * 2 + [("a.png", "a dgx cat")] * 3
    said = "\n".join(mixture.notes)
    for words in (
        "left out: 0_none with 1 picture, repeated 0 times",
        "left out: 1 picture in the folder log",
        "1 get the words of their folder's name as caption",
    ):
        assert words in said


def test_a_folder_whose_pictures_need_a_package_says_which(tmp_path) -> None:
    write_image(tmp_path / "x.png", 0).rename(tmp_path / "new.heic")
    with pytest.raises(FileNotFoundError, match=r"no picture that can be used .*\(new.heic\); reading"):
        open_data(tmp_path)


def test_a_table_of_metadata_is_read_as_the_datasets_package_reads_it(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    for name in ("a.png", "b.png", "left.png"):
        write_image(tmp_path / "set" / "images" / name, 0)
    text = 'caption,file_name,n\n"red, and\nround",images/a.png,1\n"a ""star""\u2028here",images/b.png,2\n'
    (tmp_path / "set" / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n2", "\r\n2").encode())
    ours = open_data(tmp_path / "set", options={"text": "caption"})
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [text for _, text in rows(ours)] == theirs["caption"] == ["red, and\nround", 'a "star"\u2028here']
    assert ours.notes == ["set: left out: 1 picture that the metadata does not name (left.png)"]


def test_a_row_of_a_table_that_is_no_utf_8_is_its_own_error_with_file_and_line(tmp_path) -> None:
    write_image(tmp_path / "a.png", 0)
    lines = ["file_name,text", 'a.png,"two', 'lines"', "a.png,café", "a.png", "a.png,good"]
    (tmp_path / "metadata.csv").write_bytes("\n".join(lines).encode("latin-1"))
    (source,) = open_data(tmp_path).sources.values()
    assert (source[0].text, source[3].text) == ("two\nlines", "good")
    for row, words in [
        (1, r"metadata.csv:1: not UTF-8; save it as UTF-8 \(line 4 of the file\)"),
        (2, r"metadata.csv:2: 1 fields, and the first line names 2 \(line 5 of the file\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            source[row]


def test_names_that_are_no_utf_8_are_shown_and_counted(tmp_path, capsys) -> None:
    name = b"caf\xe9"
    write_image(tmp_path / "a.png", 0)
    for suffix, content in ((b".png", (tmp_path / "a.png").read_bytes()), (b".txt", b"a star")):
        Path((bytes(tmp_path) + b"/" + name + suffix).decode("utf-8", "surrogateescape")).write_bytes(content)
    (tmp_path / "a.txt").write_text("a")
    (source,) = open_data(tmp_path).sources.values()
    assert [source[0].text, source[1].text] == ["a", "a star"]
    assert source[1].key.endswith("caf\\xe9.png")
    assert "bad rows    0 of 2" in say(capsys, "data", "stats", str(tmp_path))
    assert "1 rows, 1 left out" in say(
        *(capsys, "data", "convert", str(tmp_path), str(tmp_path / "o.jsonl"), "--bad-share-limit", "1")
    )


# --- formats that other packages read


def test_pictures_of_phones_are_named_without_the_packages_that_read_them(capsys) -> None:
    assert [name for name, _ in rows(open_data(CASES / "phone"))] == ["c.avif"]
    assert "left out: 3 pictures (b.jxl, plain.heif, turned.HEIC)" in say(
        capsys, "data", "stats", str(CASES / "phone")
    )


def test_pictures_of_phones_are_rows_with_them(with_extra: None, capsys) -> None:
    assert len(rows(open_data(CASES / "phone"))) == 4
    assert "bad rows    0 of 4" in say(capsys, "data", "stats", str(CASES / "phone"))


def test_no_ending_is_forgotten_that_pillow_opens_with_our_formats() -> None:
    from PIL import Image

    from deepgen.image_formats import FORMATS

    Image.init()
    known = {ending for ending, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")}
    assert known <= set(SUFFIXES)
