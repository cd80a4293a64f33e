"""`deepgen data`: inspect, count, convert and encode training data before training."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitSubcommandPrefixes, Positional, UseAppendAction, arg, subcommand

from deepgen.cli.options import Device, PluginOptions
from deepgen.cli.outputs import check_file_name, check_folder, print_report
from deepgen.processes import join
from deepgen.text_lines import shown

if TYPE_CHECKING:
    from deepgen.data.mixture import Mixture
    from deepgen.pipeline import DeepGenPipeline

LAST_LATIN = "\u2fff"  # beyond it, Pillow's own font has nothing at all


@dataclass(frozen=True, kw_only=True)
class DataChoice(PluginOptions):
    """Which data is meant."""

    data: Positional[Annotated[str, arg(metavar="MIXTURE|PATH")]]
    """A mixture (a .yaml file, or `stage1` and `stage2` of the original), or the path of one source."""
    source: Annotated[str | None, arg(metavar="FORMAT")] = None
    """The format of a path, where it does not show: caption_pair, t2i_sft or edit for .json; or your
    own, PATH.py:NAME."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="OPTION=VALUE")] = ()
    """An option of the format, such as image_dir=pictures; repeat for several."""
    root: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Where a mixture's relative paths start, instead of its own root."""
    only: Annotated[str | None, arg(metavar="NAME")] = None
    """One source of a mixture."""

    def open(self) -> Mixture:
        """The mixture; a path is a mixture of one source."""
        from deepgen.data.opening import open_data

        return open_data(
            self.data,
            source=self.source,
            options=_assignments(self.set),
            root=self.root,
            only=self.only,
        )


@dataclass(frozen=True, kw_only=True)
class Inspect(DataChoice):
    """Draw a sheet of random samples: references, target and text of each."""

    output: Annotated[Path, arg(aliases=["-o"], metavar="FILE")] = Path("sheet.png")
    """The picture to write: .png, .jpg or .webp; an existing one is replaced."""
    num_samples: Annotated[int, arg(aliases=["-n"])] = 16
    """How many samples."""
    seed: int = 0
    """Which samples."""
    font: Annotated[Path | None, arg(metavar="FILE.ttf")] = None
    """A font for texts that are not in Latin letters."""

    def run(self) -> int:
        """Exit code 0 once the sheet is written."""
        from deepgen.data.contact_sheet import contact_sheet, make_tile
        from deepgen.data.image_files import save_image
        from deepgen.data.mixture import Mixture

        check_file_name(self.output)
        if self.num_samples < 1:
            raise ValueError(f"--num-samples must be at least 1, got {self.num_samples}")
        check_folder(self.output.parent)
        given = self.open()
        mixture = Mixture(replace(given.config, seed=self.seed), given.sources)
        count = min(self.num_samples, sum(len(source) for source in mixture.sources.values()))
        tiles = [make_tile(mixture, mixture.draw(sample, block_size=1)) for sample in range(count)]
        for tile in tiles:
            what = shown(tile.error or "") or f"{', '.join(tile.sizes)}  {tile.text!r}"
            print(f"{tile.draw.task:8}  {tile.draw.source}:{tile.draw.index}  {what}")
        save_image(contact_sheet(tiles, self.font), self.output)
        _say_notes(given)
        if self.font is None and any(letter > LAST_LATIN for tile in tiles for letter in tile.text):
            print(
                "some texts are not in Latin letters and may show as boxes; give a font with --font FILE.ttf"
            )
        num_bad = sum(tile.error is not None for tile in tiles)
        print(f"{self.output}  {len(tiles)} samples, {num_bad} of them cannot be used")
        return 0


@dataclass(frozen=True, kw_only=True)
class Stats(DataChoice):
    """Count rows, shares of draws, sizes, texts, references and missing files of each source."""

    sample: int = 200
    """Rows of each source whose files are looked at."""
    seed: int = 0
    """Which rows."""
    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0 when every row looked at can be used, 1 otherwise."""
        from deepgen.data.stats import mixture_stats

        if self.sample < 1:
            raise ValueError(f"--sample must be at least 1, got {self.sample}")
        stats = mixture_stats(self.open(), self.sample, self.seed)
        print_report(stats, as_json=self.json)
        return 1 if stats.num_bad else 0


@dataclass(frozen=True, kw_only=True)
class ConvertData(DataChoice):
    """Write a source as one JSONL manifest with the size of every picture, so that planning opens none."""

    output: Positional[Annotated[Path, arg(metavar="FILE.jsonl")]]
    """The manifest to write; must not exist yet."""
    bad_share_limit: float = 0.01
    """Share of rows that may be left out because they cannot be used; beyond it nothing is written."""

    def run(self) -> int:
        """Exit code 0 once the manifest is complete."""
        from deepgen.data.convert import convert_source

        mixture = self.open()
        if len(mixture.sources) != 1:
            names = ", ".join(mixture.sources)
            raise ValueError(f"one manifest holds one source; choose it with --only, from: {names}")
        ((name, source),) = mixture.sources.items()
        _say_notes(mixture)
        done = convert_source(source, self.output, name=name, bad_share_limit=self.bad_share_limit)
        print(
            f"{done.path}  {done.num_rows} rows, {done.num_bad} left out, "
            f"{done.num_images_written} pictures written"
        )
        if done.num_outside:
            home = done.path.parent.absolute()
            print(f"{done.num_outside} pictures lie outside of {home}; read the manifest with outside=true")
        return 0


@dataclass(frozen=True, kw_only=True)
class CacheData(DataChoice):
    """Encode every picture once, so that training need not; interrupted, the same command goes on."""

    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """The cache: a new folder, or one to go on with."""
    model: Annotated[str, arg(metavar="NAME|PATH")] = "tiny"
    """Whose VAE and vision tower: what the training will start from; `none`: base models."""
    vlm: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """A base VLM, as --set vlm= of the training; with --model none by default the published one."""
    transformer: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """An SD3 pipeline, as --set transformer=; its VAE is taken."""
    vae: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """A base VAE, where it is not the pipeline's."""
    features: bool = True
    """Keep the vision tower's features of references too."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format kept, unless what is computed is narrower; float32 leaves losses as they are."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of weights and arithmetic, as the training's `precision`; auto: bfloat16 on cuda, else float32."""
    device: Device = "auto"
    """Where to compute. auto: cuda, then mps, then cpu."""
    shard_size: int = 256
    """Rows of a file: what an interrupt can lose."""
    batch_size: int = 8
    """Pictures encoded at a time."""
    num_workers: int = 2
    """Processes that read pictures ahead; 0 reads in this one."""
    process: int | None = None
    """Where several share the work: which one this is, from 0; by default as torchrun says."""
    num_processes: int | None = None
    """How many processes share the work; each writes its own files. By default those of torchrun."""

    def run(self) -> int:
        """Exit code 0 once every row of this process is kept or known to be unusable."""
        from deepgen.training.cache import CacheConfig, fill_cache

        config = CacheConfig(
            has_features=self.features,
            dtype=self.dtype,
            shard_size=self.shard_size,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            **self._share(),
        )
        mixture = self.open()
        _say_notes(mixture)
        check_folder(self.output)
        mixture, pipe = self._with_model(mixture)
        started = time.perf_counter()

        def progress(shard: int, num_shards: int, num_rows: int) -> None:
            speed = num_rows / (time.perf_counter() - started)
            print(
                f"shard {shard + 1} of {num_shards}: {num_rows} rows, {speed:.1f} a second", file=sys.stderr
            )

        done = fill_cache(mixture, pipe, self.output, config, progress)
        print(
            f"{self.output}  {done.num_made} shards made, {done.num_found} were there, "
            f"{done.num_rows} rows encoded, {done.num_bad} of them cannot be used"
        )
        return 0

    def _share(self) -> dict[str, int]:
        """Which part of the work is this process's: as the options say, else as the launcher does."""
        if (self.process, self.num_processes) == (None, None):
            state = join(self.device)  # which also gives this process an accelerator of its own
            return {"process": state.process_index, "num_processes": state.num_processes}
        if self.process is None or self.num_processes is None:
            raise ValueError("give --process and --num-processes together: --process 0 --num-processes 4")
        return {"process": self.process, "num_processes": self.num_processes}

    def _with_model(self, mixture: Mixture) -> tuple[Mixture, DeepGenPipeline]:
        """The model as a stage would load it; a path is read at the size the model draws, as in training."""
        import torch

        from deepgen.cli.loading import choose_device
        from deepgen.data.opening import recognise, with_rule
        from deepgen.training.start import Start
        from deepgen.training.supervised import SupervisedConfig, own_image_rule

        device = torch.device(choose_device(self.device))
        dtype = SupervisedConfig(precision=self.precision).dtype(device)
        is_fresh = self.model == "none"
        start = Start(
            model=None if is_fresh else self.model,
            vlm=self.vlm,
            transformer=self.transformer,
            vae=self.vae,
            new_connector=is_fresh,
        )
        pipe = start.load(dtype)
        pipe.vae.eval().to(device)
        pipe.vlm.visual.eval().to(device)
        if recognise(self.data, self.source).kind == "source":
            mixture = with_rule(mixture, own_image_rule(pipe))
        return mixture, pipe


Action = (
    Annotated[Inspect, subcommand("inspect")]
    | Annotated[Stats, subcommand("stats")]
    | Annotated[ConvertData, subcommand("convert")]
    | Annotated[CacheData, subcommand("cache")]
)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Look at training data, count it, convert it, or encode it."""

    action: OmitSubcommandPrefixes[Action]

    def run(self) -> int:
        """The action's exit code."""
        return self.action.run()


def _say_notes(mixture: Mixture) -> None:
    for note in mixture.notes:
        print(f"deepgen: {note}", file=sys.stderr)


def _assignments(texts: tuple[str, ...]) -> Mapping[str, str]:
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise ValueError(f"--set {wrong[0]!r} is not OPTION=VALUE; try --set image_dir=pictures")
    return dict(text.split("=", 1) for text in texts)
