from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepgen.checkpoints.published import PUBLISHED, PUBLISHED_REVISION, PublishedFile
from deepgen.checkpoints.verify import Problem, VerifyReport, verify

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def errors(report: VerifyReport) -> list[Problem]:
    return [problem for problem in report.problems if problem.severity == "error"]


def change(file: Path, name: str, edit) -> None:
    """Rewrite one tensor of a safetensors file; `edit` returns None to drop it."""
    state = load_file(file)
    value = edit(state.pop(name).clone())
    if value is not None:
        state[name] = value
    save_file(state, file, {"format": "pt"})


def dit(folder: Path) -> Path:
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


def in_hub_cache(folder: Path, home: Path) -> Path:
    """The folder as the Hub's client keeps it: links from a snapshot into blobs, named by their sha256."""
    repository = home / "hub" / "models--deepgenteam--DeepGen-1.0-diffusers"
    snapshot = repository / "snapshots" / PUBLISHED_REVISION
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        link = snapshot / file.relative_to(folder)
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        for place in (link, blob):
            place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_whole_folder_has_no_errors(ours):
    report = verify(ours)
    assert report.ok
    assert report.problems == []
    assert (report.files, len(report.hashes)) == (4, 14)
    assert json.loads(json.dumps(report.to_dict()))["ok"]
    assert "0 errors" in str(report)


def test_every_native_layout_has_no_errors(native_layout, native, tmp_path):
    write, kind = native_layout
    report = verify(write(tmp_path, native))
    assert (report.problems, report.kind, report.tensors) == ([], kind, len(native))
    assert any("no VLM LoRA" in note for note in report.notes)


def test_the_published_layout_has_no_errors(published):
    assert verify(published).problems == []


def test_nothing_at_the_path_is_not_a_report(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        verify(tmp_path / "nothing")


def test_a_broken_folder_is_reported(ours):
    (ours / "model_index.json").write_text("{")
    problem, changed = errors(verify(ours))
    assert "not valid JSON" in problem.message
    assert (changed.file, "SHA256SUMS says" in changed.message) == ("model_index.json", True)


def test_a_truncated_file_is_found(ours):
    content = dit(ours).read_bytes()
    dit(ours).write_bytes(content[:-1000])
    (problem,) = errors(verify(ours))
    assert problem.file == "transformer/diffusion_pytorch_model.safetensors"
    assert "truncated" in problem.message


def test_a_missing_file_is_found(ours):
    dit(ours).unlink()
    report = verify(ours)
    assert any(
        problem.file == "transformer" and "no weights in" in problem.message for problem in errors(report)
    )


def test_nan_and_infinity_are_found(ours):
    for value, name in ((float("nan"), "proj_out.weight"), (float("inf"), "context_embedder.bias")):
        change(dit(ours), name, lambda tensor, value=value: tensor.index_fill(0, torch.tensor([1]), value))
    found = {problem.tensor for problem in errors(verify(ours, hashes=False))}
    assert found == {"proj_out.weight", "context_embedder.bias"}


def test_zeroed_weights_are_errors_but_not_those_that_start_at_zero(ours):
    change(dit(ours), "proj_out.weight", torch.zeros_like)
    bridge = ours / "connector" / "diffusion_pytorch_model.safetensors"
    change(bridge, "context_projector.weight", torch.zeros_like)
    report = verify(ours, hashes=False)
    assert [problem.tensor for problem in errors(report)] == ["proj_out.weight"]
    assert [problem.tensor for problem in report.problems if problem.severity == "warning"] == [
        "context_projector.weight"
    ]


def test_zeros_at_the_end_of_a_file_are_found_without_hashes(ours):
    content = dit(ours).read_bytes()
    dit(ours).write_bytes(content[: len(content) * 3 // 4] + bytes(len(content) - len(content) * 3 // 4))
    report = verify(ours, hashes=False)
    assert any("zero bytes, as an interrupted download" in problem.message for problem in errors(report))


def test_missing_foreign_and_misshapen_keys_are_found(ours):
    change(dit(ours), "proj_out.bias", lambda tensor: None)
    change(dit(ours), "context_embedder.bias", lambda tensor: tensor[:-1])
    state = load_file(dit(ours))
    save_file({**state, "extra.weight": torch.ones(2)}, dit(ours), {"format": "pt"})
    found = {problem.tensor: problem.message for problem in errors(verify(ours, hashes=False))}
    assert found["transformer.proj_out.bias"] == "missing key"
    assert found["transformer.extra.weight"] == "foreign key"
    assert any(message == "wrong shape" for message in found.values())
    assert len(found) == 3


def test_a_changed_value_is_found_by_its_hash(ours):
    change(dit(ours), "proj_out.bias", lambda tensor: tensor + 1)
    (problem,) = errors(verify(ours))
    assert "SHA256SUMS says" in problem.message
    assert verify(ours, hashes=False).ok


def test_what_the_hub_client_noted_is_compared(published):
    name = "transformer/diffusion_pytorch_model.safetensors"
    noted = published / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    noted.parent.mkdir(parents=True)
    digest = hashlib.sha256((published / name).read_bytes()).hexdigest()
    noted.write_text(f"85c2ed257b9406d8531965c68e140dc7fdb81382\n{digest}\n1700000000.0\n")
    assert verify(published).hashes == {name: "the Hub"}
    noted.write_text(f"85c2ed257b9406d8531965c68e140dc7fdb81382\n{'0' * 64}\n1700000000.0\n")
    (problem,) = errors(verify(published))
    assert "the Hub says" in problem.message


def test_the_name_of_a_cached_file_is_its_hash(published, tmp_path):
    snapshot = in_hub_cache(published, tmp_path)
    report = verify(snapshot)
    assert (report.problems, set(report.hashes.values())) == ([], {"the Hub cache"})
    blob = dit(snapshot).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert "the Hub cache says" in str(errors(verify(snapshot, scan=False))[0])


def known_as_published(file: Path, monkeypatch, digest: str) -> None:
    """Put a file's sizes into the table of published files, with this sum."""
    state = load_file(file)
    row = PublishedFile(TRANSFORMER, len(state), sum(value.numel() for value in state.values()), digest)
    monkeypatch.setitem(PUBLISHED, TRANSFORMER, row)


def test_the_table_of_published_files_is_used_whatever_the_folder_is_called(published, monkeypatch, tmp_path):
    assert verify(published).hashes == {}
    digest = hashlib.sha256(dit(published).read_bytes()).hexdigest()
    known_as_published(dit(published), monkeypatch, digest)
    origin = {"the published transformer/diffusion_pytorch_model.safetensors of revision 85c2ed2"}
    assert set(verify(published).hashes.values()) == origin
    assert set(verify(shutil.copytree(published, tmp_path / "x")).hashes.values()) == origin
    alone = shutil.copy(dit(published), tmp_path / "dit.safetensors")
    report = verify(alone)
    assert (report.problems, set(report.hashes.values())) == ([], origin)
    assert any("the transformer alone" in note for note in report.notes)


def test_a_file_of_published_sizes_with_another_sum_is_an_error_where_it_must_be_that_file(
    published, monkeypatch, tmp_path
):
    known_as_published(dit(published), monkeypatch, "0" * 64)
    (problem,) = errors(verify(published))
    assert "revision 85c2ed2 says" in problem.message
    # in another place, or at another revision, it may rightly be another model
    for other in (
        shutil.copy(dit(published), tmp_path / "dit.safetensors"),
        shutil.copytree(published, tmp_path / "snapshots" / ("c" * 40)),
    ):
        report = verify(other)
        assert report.ok
        assert any("of another revision, trained further, or damaged" in note for note in report.notes)


def test_the_table_holds_every_published_file_of_weights():
    assert len(PUBLISHED) == 5
    assert round(sum(file.elements for file in PUBLISHED.values()) / 1e9, 2) == 6.74
    assert len({file.sha256 for file in PUBLISHED.values()}) == 5


def test_objects_beside_the_weights_are_no_fault(tmp_path, native):
    torch.save({**native, "path": Path("x")}, tmp_path / "model.pt")
    assert verify(tmp_path / "model.pt").problems == []
