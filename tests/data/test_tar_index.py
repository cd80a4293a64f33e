"""Tars as programs write them and as accidents leave them: no row goes missing unsaid."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from deepgen.data.example import RowError
from deepgen.data.example_images import load_image
from deepgen.data.file_stamp import DataChangedError
from deepgen.data.sources import make_source
from images_on_disk import image_bytes

PICTURES = [image_bytes(row, (32, 32)) for row in range(3)]


def fill(folder: Path, members: Mapping[bytes | str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in members.items():
        raw = name.encode() if isinstance(name, str) else name
        Path((bytes(folder) + b"/" + raw).decode("utf-8", "surrogateescape")).write_bytes(content)
    return folder


def samples(count: int = 3, first: int = 0) -> dict[bytes | str, bytes]:
    return {
        f"{row}{suffix}": content
        for row in range(first, first + count)
        for suffix, content in ((".png", PICTURES[row % 3]), (".txt", b"picture %d" % row))
    }


def tar(path: Path, folder: Path, *options: str) -> Path:
    """As the system's own tar writes the files of a folder, sorted by name."""
    subprocess.run(["tar", "-cf", path, "--sort=name", *options, "-C", folder, "."], check=True)
    return path


def opened(path: Path, **options: str):
    return make_source("webdataset", path=str(path), cache_dir=str(path.parent / "cache"), **options)


def usable(source) -> tuple[list[str], list[str]]:
    """(texts of rows that can be used, errors of the others)."""
    texts, errors = [], []
    for row in range(len(source)):
        try:
            example = source[row]
            load_image(example.target)
            texts.append(example.text)
        except ValueError as error:
            errors.append(str(error))
    return texts, errors


def test_names_that_are_no_utf_8_are_read_and_shown_by_their_bytes(tmp_path) -> None:
    members = {b"caf\xe9.png": PICTURES[0], b"caf\xe9.txt": "un café".encode(), **samples(1)}
    source = opened(tar(tmp_path / "a.tar", fill(tmp_path / "in", members)))
    assert usable(source) == (["picture 0", "un café"], [])
    assert source[1].key == f"{tmp_path / 'a.tar'}!./caf\\xe9"


def test_a_text_that_is_no_utf_8_is_its_rows_error(tmp_path) -> None:
    source = opened(tar(tmp_path / "a.tar", fill(tmp_path / "in", {**samples(2), "1.txt": b"caf\xe9"})))
    texts, (error,) = usable(source)
    assert texts == ["picture 0"]
    assert (
        "a.tar!./1: cannot read its text from txt: not UTF-8 at byte 3 (b'\\xe9'); save it as UTF-8" in error
    )


def test_wherever_a_tar_is_cut_nothing_is_missing_unsaid(tmp_path) -> None:
    whole = tar(tmp_path / "whole.tar", fill(tmp_path / "in", samples()), "--blocking-factor=1").read_bytes()
    content_end, refusals = len(whole.rstrip(b"\0")), list[tuple[int, str]]()
    for cut in range(700, len(whole), 301):
        path = tmp_path / f"{cut}.tar"
        path.write_bytes(whole[:cut])
        try:
            source = opened(path)
        except ValueError as error:  # no row is whole
            refusals.append((cut, str(error)))
            continue
        texts, errors = usable(source)
        assert texts == [f"picture {row}" for row in range(len(texts))], cut
        if cut < content_end:
            assert len(texts) < 3 or errors, cut
            assert any(str(path) in error and "cut" in error for error in errors), cut
            assert "what stood behind is missing" in source.notes[-1], cut
    assert refusals
    assert all(cut < 3000 and "cut" in said for cut, said in refusals)


def test_a_damaged_header_is_noticed(tmp_path) -> None:
    path = tar(tmp_path / "a.tar", fill(tmp_path / "in", samples()))
    content = bytearray(path.read_bytes())
    place = content.index(b"./1.png")
    content[place + 100 : place + 110] = b"\xff" * 10
    path.write_bytes(content)
    source = opened(path)
    texts, errors = usable(source)
    assert texts == ["picture 0"]
    assert f"a.tar is damaged at byte {place:,} of {len(content):,}" in errors[0]


def test_archives_in_one_file_are_all_read_even_with_the_same_names(tmp_path) -> None:
    first = tar(tmp_path / "first.tar", fill(tmp_path / "in", samples(2)))
    second = tar(tmp_path / "second.tar", fill(tmp_path / "other", {**samples(2), "0.txt": b"another"}))
    both = tmp_path / "both.tar"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    assert usable(opened(both)) == (["picture 0", "picture 1", "another", "picture 1"], [])
    both.write_bytes(first.read_bytes() + b"no tar at all" * 100)
    texts, errors = usable(opened(both))
    assert texts == ["picture 0", "picture 1"]
    assert "both.tar is damaged at byte" in errors[0]


def test_a_member_that_was_appended_anew_counts_and_is_said(tmp_path) -> None:
    path = tar(tmp_path / "a.tar", fill(tmp_path / "in", samples(2)))
    fill(tmp_path / "in", {"0.txt": b"corrected"})
    subprocess.run(["tar", "-rf", path, "-C", tmp_path / "in", "./0.txt"], check=True)
    source = opened(path)
    assert usable(source) == (["corrected", "picture 1"], [])
    assert source.notes == ("a.tar: 1 members stand there twice; the later ones count",)


def test_shards_of_the_webdataset_package_are_read_as_it_reads_them(tmp_path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "%03d.tar"), maxcount=2, verbose=0) as writer:
        for row in range(5):
            writer.write({"__key__": f"sub/{row:04d}", "png": PICTURES[row % 3], "txt": f"café {row}"})
    (tmp_path / "._000.tar").write_bytes(b"of a Mac")
    source = make_source("webdataset", path=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    theirs = [
        sample["txt"].decode()
        for shard in range(3)
        for sample in webdataset.WebDataset(str(tmp_path / f"{shard:03d}.tar"), shardshuffle=False)
    ]
    assert usable(source)[0] == theirs == [f"café {row}" for row in range(5)]
    assert source.notes == ("passed over: 1 file(s) whose names begin with a dot (._000.tar)",)


def test_where_no_index_can_be_kept_it_is_made_elsewhere_and_said(tmp_path, caplog, monkeypatch) -> None:
    path = tar(tmp_path / "a.tar", fill(tmp_path / "in", samples()))
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        source = make_source("webdataset", path=str(path), cache_dir=str(tmp_path / "file" / "index"))
    assert usable(source)[0] == ["picture 0", "picture 1", "picture 2"]
    assert (
        f"the index of {path} cannot be kept in {tmp_path / 'file' / 'index'} (Not a directory)"
        in caplog.text
    )
    monkeypatch.setenv("HOME", "/dev/null")
    assert len(make_source("webdataset", path=str(path))) == 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar", "file", "in"]


def test_a_tar_that_was_replaced_is_not_read_at_the_places_of_the_old_one(tmp_path) -> None:
    path = tar(tmp_path / "a.tar", fill(tmp_path / "in", samples()))
    source = opened(path)
    example = source[0]
    tar(path, fill(tmp_path / "in", {"0.txt": b"other text"}))
    for read in (lambda: source[1], example.target.read):
        with pytest.raises(DataChangedError, match=r"a.tar was replaced while it was in use") as error:
            read()
        assert not isinstance(error.value, RowError)
    assert usable(opened(path))[0] == ["other text", "picture 1", "picture 2"]
