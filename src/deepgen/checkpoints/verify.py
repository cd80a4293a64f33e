"""`deepgen verify`: is this checkpoint whole?

Looked at, in this order: can every file be opened and is it as long as its header says; are its tensors
numbers (no NaN or infinity) and not zeros, as an interrupted download leaves them; do configs, tokenizer and
keys fit the model; is the sha256 the expected one. A file that is broken in whatever way is a finding in the
report: nothing that is in a checkpoint makes this raise.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepgen.checkpoints import names
from deepgen.checkpoints.checkpoint import (
    ADAPTER_DIR,
    SHOWN,
    LoadReport,
    compare,
    open_native,
    read_checkpoint,
    translate,
)
from deepgen.checkpoints.hashes import check_hashes
from deepgen.checkpoints.layouts import (
    NOT_WEIGHTS,
    HubOptions,
    Layout,
    detect,
    read_object,
    resolve,
    weight_files,
)
from deepgen.checkpoints.parts import WEIGHTED, Part, read_config
from deepgen.checkpoints.report import Problem as Problem
from deepgen.checkpoints.report import VerifyReport
from deepgen.checkpoints.spans import all_finite
from deepgen.checkpoints.tensors import CheckpointError, LazyTensor, open_file
from deepgen.checkpoints.zero_partitions import zero_files
from deepgen.checkpoints.zeros import ZeroRun, ZeroSearch, is_zero
from deepgen.progress import progress_bar

# Zero when training starts, by design: the output projectors of a new connector and the B factor of a new
# LoRA.
_ZERO_AT_START = re.compile(
    r"(^|\.)(projector_[23]|pooled_projector|context_projector)\.|\.lora_B\.|\.lora_embedding_B"
)
# What every file of one part has, by the names the libraries write.
_PART_MARKS = {
    "transformer": ("transformer_blocks.0.",),
    "vae": ("encoder.conv_in.", "decoder.conv_in."),
    "vlm": ("model.layers.", "model.language_model.", "language_model.", "visual.", "model.visual."),
}


def verify(
    path: str | Path,
    *,
    scan: bool = True,
    hashes: bool = True,
    connector_config: dict[str, Any] | None = None,
    hub: HubOptions | None = None,
    progress: bool = False,
) -> VerifyReport:
    """Examine a checkpoint of any layout.

    Args:
        path: folder, file or hub id.
        scan: read every tensor for zeros, NaN and infinity.
        hashes: compute sha256 where an expected one is known.
        connector_config: what tensor shapes cannot tell, such as `num_attention_heads`.
        hub: how hub ids are downloaded.
        progress: show bars.

    Raises:
        FileNotFoundError: nothing is at `path`. What is there but broken is in the report.
    """
    report, layout = VerifyReport(str(path), "unknown"), None
    place = Path(path)
    try:
        place = resolve(path, hub, ignore=NOT_WEIGHTS)
    except FileNotFoundError:
        raise
    except Exception as error:  # as `VerifyReport.findings`
        report.error(str(path), str(error))
        return report
    with report.findings(str(place)):
        layout = detect(place, hub)
    if layout is None:
        if hashes and place.is_dir():  # its list may say which file it is
            report.folder = str(place)
            with report.findings(str(place)):
                check_hashes(Layout("deepgen", place, str(path)), {}, report, progress)
        return report
    report.kind, report.folder = layout.kind, str(layout.folder)
    opened = _open_all(layout, report)
    if scan:
        _scan_all(opened, report, progress)
    if layout.path.is_dir() and not layout.is_native:
        _check_small_files(layout.path, report)
    if report.ok or all(problem.tensor for problem in report.problems):
        with report.findings(str(layout.path)):
            _check_keys(layout, opened, connector_config, report)
    else:
        report.notes.append("keys were not compared with the model, because files are broken or missing")
    if hashes:
        with report.findings(str(layout.path)):
            check_hashes(layout, opened, report, progress)
    return report


def require_unchanged(path: str | Path, hub: HubOptions | None = None, progress: bool = False) -> None:
    """Before loading: every file of a model is as its known sum says, and whole.

    Raises:
        FileNotFoundError: nothing is at `path`.
        CheckpointError: a file is damaged, missing or foreign, or no sum is known of a file of weights.
    """
    report = verify(path, scan=False, hub=hub, progress=progress)
    faults = [str(problem) for problem in report.problems if problem.severity == "error"]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(f"{path} was not loaded: {'; '.join(faults[:5])}{more}")
    if report.unknown:
        raise CheckpointError(
            f"{path} was not loaded: the right sum is not known of {', '.join(report.unknown[:5])}, so there "
            "is nothing to compare with; load it without verify, or get the folder with its SHA256SUMS"
        )


# --- files


def _open_all(layout: Layout, report: VerifyReport) -> dict[Path, dict[str, LazyTensor]]:
    opened = {}
    if layout.zero_dir is not None:
        return _open_joined(layout, report)
    for file in _files(layout, report):
        report.files += 1
        with report.findings(report.name_of(file)):
            report.nbytes += file.stat().st_size
            opened[file] = open_file(file)
            report.tensors += len(opened[file])
    return opened


def _open_joined(layout: Layout, report: VerifyReport) -> dict[Path, dict[str, LazyTensor]]:
    """The files of a DeepSpeed run, whose tensors lie across them: all are reported under the first."""
    files = layout.files if layout.kind == "deepspeed-dir" else (*layout.files, *zero_files(layout.zero_dir))
    report.files = len(files)
    report.nbytes = sum(file.stat().st_size for file in files)
    with report.findings(str(layout.zero_dir)):
        tensors = open_native(layout)[0]
        report.tensors = len(tensors)
        return {files[0]: tensors, **{file: {} for file in files[1:]}}
    return {}


def _files(layout: Layout, report: VerifyReport) -> list[Path]:
    if layout.is_native:
        return list(layout.files)
    files: list[Path] = []
    for part in (*WEIGHTED, ADAPTER_DIR):
        with report.findings(part):
            if (layout.path / part).is_dir():
                files += weight_files(layout.path / part)
    return files


def _check_small_files(folder: Path, report: VerifyReport) -> None:
    """Configs, scheduler and tokenizer, which hold no weights."""
    for file in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        if not any(part.startswith(".") for part in file.relative_to(folder).parts):
            with report.findings(report.name_of(file)):
                read_object(file)
    if report.kind == "deepgen" and (folder / "model_index.json").is_file():
        with report.findings("model_index.json"):
            _check_module(folder)
    if (folder / "scheduler").is_dir():
        with report.findings("scheduler"):
            _require_class(folder / "scheduler" / "scheduler_config.json", "_class_name")
    if (folder / "tokenizer").is_dir():
        with report.findings("tokenizer"):
            _check_tokenizer(folder / "tokenizer")


def _check_module(folder: Path) -> None:
    """That diffusers finds the class in the module which our model_index.json names; nothing is run. The
    published folder has a module of its own, which is not looked at and may be left out.
    """
    named = read_object(folder / "model_index.json").get("_class_name")
    if not isinstance(named, list):
        return
    module, wanted = map(str, named)
    path = folder / f"{module}.py"
    hint = "without it diffusers cannot open the folder; get the file again, or save the model anew"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise CheckpointError(f"{path.name} cannot be read as Python ({error}); {hint}") from error
    places = [place for place in ast.walk(tree) if isinstance(place, ast.Name | ast.ClassDef)]
    if wanted not in {place.id if isinstance(place, ast.Name) else place.name for place in places}:
        raise CheckpointError(f"{path.name} has no {wanted}; {hint}")


def _require_class(path: Path, key: str) -> None:
    """A config that says nothing would silently become the library's defaults."""
    if not isinstance(read_object(path).get(key), str):
        raise CheckpointError(f"{path} has no {key}, which every writer of such a config writes")


def _check_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    _require_class(folder / "tokenizer_config.json", "tokenizer_class")
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not tokenizer("a red circle")["input_ids"]:
        raise CheckpointError(f"{folder} knows no words: its vocabulary is missing or empty")


# --- numbers


def _scan_all(opened: Mapping[Path, Mapping[str, LazyTensor]], report: VerifyReport, progress: bool) -> None:
    total = sum(tensor.nbytes for tensors in opened.values() for tensor in tensors.values())
    with progress_bar(total, "reading", "B", is_shown=progress) as bar:
        for file, tensors in opened.items():
            with report.findings(report.name_of(file)):
                _scan_file(file, tensors, report, bar)


def _scan_file(file: Path, tensors: Mapping[str, LazyTensor], report: VerifyReport, bar: Any) -> None:
    name, search, found = report.name_of(file), ZeroSearch(file.stat().st_size), 0
    kinds = {tensor.name: tensor for tensor in tensors.values()}
    for key, tensor in tensors.items():
        value = None
        with report.findings(name, key):
            value = tensor.read()
        bar.update(tensor.nbytes)
        if value is None:
            continue
        if not all_finite(value):
            report.error(name, "has values that are NaN or infinite", key)
        is_bias, is_new = key.endswith("bias"), _ZERO_AT_START.search(key) is not None
        if not is_bias and is_zero(value):
            message = "is all zeros" + (", as before training" if is_new else "")
            report.add("warning" if is_new else "error", name, message, key)
        for run in search.runs(tensor, value, is_bias or is_new):
            found += 1
            _report_run(run, kinds, name, report, found)
    for run in search.finish():
        found += 1
        _report_run(run, kinds, name, report, found)
    if found > SHOWN:
        report.error(name, f"{found - SHOWN} more blocks of zeros")


def _report_run(
    run: ZeroRun, tensors: Mapping[str, LazyTensor], file: str, report: VerifyReport, number: int
) -> None:
    if number > SHOWN:
        return
    first, last = run.tensors[0], run.tensors[-1]
    where = f"bytes {run.start} to {run.end} of the {'file' if run.is_in_file else 'tensor'}"
    if run.reaches_end:
        message = f"ends with {run.nbytes} zero bytes, as an interrupted download does; download it again"
        report.error(file, message)
    elif run.rows is not None:
        message = f"rows {run.rows[0]} to {run.rows[1]} are all zeros ({where}), as of unused entries"
        report.add("warning", file, message, first)
    elif len(run.tensors) == 1 and (first.endswith("bias") or not tensors[first].dtype.is_floating_point):
        report.add("warning", file, f"has {run.nbytes} zero bytes in a row ({where})", first)
    else:
        through = "" if first == last else f", through {last}"
        message = (
            f"has {run.nbytes} zero bytes in a row ({where}{through}), as after a download that was resumed "
            "wrongly; download it again"
        )
        report.error(file, message, first)


# --- keys


def _check_keys(
    layout: Layout,
    opened: Mapping[Path, Mapping[str, LazyTensor]],
    connector_config: dict[str, Any] | None,
    report: VerifyReport,
) -> None:
    if (part := _lone_part(layout, opened)) is not None:
        _check_part(part, layout, opened, report)
        return
    checkpoint = read_checkpoint(layout, connector_config, shapes_only=True)
    for found in checkpoint.parts.values():
        if found.config is None:
            report.notes.append(
                f"{found.name}: {len(found.tensors)} tensors, not compared: its config is in a base model"
            )
        else:
            compare(found, checkpoint.report)
    _report_keys(layout, checkpoint.report, report)
    report.notes += checkpoint.report.notes
    report.notes += [
        f"no {part} here: it comes from a base model" for part in WEIGHTED if part not in checkpoint.parts
    ]
    if checkpoint.lora:
        report.notes.append(f"the VLM has a LoRA on {len(checkpoint.lora)} modules")
    elif layout.is_native and "vlm" not in checkpoint.parts:
        report.notes.append("no VLM LoRA here")


def _lone_part(layout: Layout, opened: Mapping[Path, Mapping[str, LazyTensor]]) -> str | None:
    """The part that a single file is, under the names the libraries write; None for a whole checkpoint."""
    if layout.kind != "native-file":
        return None
    keys = [name for tensors in opened.values() for name in tensors]
    if any("meta_queries" in name or "think_tokens" in name for name in keys):
        return None
    return next(
        (part for part, marks in _PART_MARKS.items() if any(name.startswith(marks) for name in keys)), None
    )


def _check_part(
    part: str, layout: Layout, opened: Mapping[Path, Mapping[str, LazyTensor]], report: VerifyReport
) -> None:
    tensors = {name: tensor for found in opened.values() for name, tensor in found.items()}
    head = f"the {part} alone, {len(tensors)} tensors"
    if not (layout.folder / "config.json").is_file():
        report.notes.append(f"{head}; not compared with a model, because no config.json is beside it")
        return
    found = LoadReport()
    config = read_config(part, layout.folder)
    compare(Part(part, translate(part, tensors, found), config, str(layout.path)), found)
    _report_keys(layout, found, report)
    report.notes.append(head)


def _report_keys(layout: Layout, found: LoadReport, report: VerifyReport) -> None:
    faults = {"missing key": found.missing, "foreign key": found.unexpected, "wrong shape": found.mismatched}
    for fault, keys in faults.items():
        for key in keys[:SHOWN]:
            report.error(str(layout.path), fault, key)
        if len(keys) > SHOWN:
            report.error(str(layout.path), f"{fault}: {len(keys) - SHOWN} more")
    for key, reason in found.ignored.items():
        if reason != names.UNUSED_HEAD:
            report.notes.append(f"{key} is not used: {reason}")
