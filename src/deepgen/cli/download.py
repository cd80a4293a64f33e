"""`deepgen download`: the published weights, resumable and compared with their sums."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from deepgen.embedded import is_embedded

if TYPE_CHECKING:
    from deepgen.checkpoints.hub_files import Listing


@dataclass(frozen=True, kw_only=True)
class Download:
    """Fetch a model from the Hub; a call that was stopped goes on where it was.

    The folder is printed on stdout, all else on stderr. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are
    those of huggingface_hub.
    """

    name: Positional[Annotated[str, arg(metavar="NAME")]] = ""
    """A Hub name. Default: deepgenteam/DeepGen-1.0-diffusers, the published model, 14 GB."""
    to: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """A plain folder to copy to other machines. Default: the Hub's cache, where `--model NAME` looks."""
    bases: bool = False
    """Also the models that complete a native checkpoint (Qwen2.5-VL, UniPic2); without NAME only these."""
    without_transformer: bool = False
    """Leave out the DiT's weights: for those who bring them with --transformer-gguf."""
    all: bool = False
    """Everything in the repository, archives of other stages and pictures included."""
    revision: Annotated[str | None, arg(metavar="COMMIT|BRANCH")] = None
    """Which state of the repository. Default: the newest."""
    plan: bool = False
    """Say what would be fetched and whether there is room, and fetch nothing."""

    def run(self) -> int:
        """Exit code 0 once every file is there and its sum is right."""
        from deepgen.checkpoints.published import BASE_FILES, PUBLISHED_NAME

        self._check()
        names = [self.name] if self.name or not self.bases else []
        names = [name or PUBLISHED_NAME for name in names]
        names += [base for base in BASE_FILES if self.bases and base not in names]
        places = {}
        try:
            for name in names:
                places[name] = self._fetch(name, self._folder(name, len(names)))
        except KeyboardInterrupt:
            _say("stopped; what was fetched is kept, and the same command goes on there")
            raise
        if not self.plan:
            self._say_next(places)
        return 0

    def _check(self) -> None:
        from deepgen.checkpoints.published import PUBLISHED_NAME

        if self.name and is_embedded(self.name):
            raise ValueError(
                f"{self.name} is inside this package and needs no download; draw with --model {self.name}"
            )
        if self.name and (Path(self.name).expanduser().exists() or self.name.count("/") != 1):
            raise ValueError(
                f"{self.name!r} is no name on the Hub; expected OWNER/MODEL, such as {PUBLISHED_NAME}"
            )
        if self.to is not None and self.to.exists() and not self.to.is_dir():
            raise ValueError(f"--to {self.to} is a file; name a folder")

    def _folder(self, name: str, count: int) -> Path | None:
        """Where a repository goes: the folder itself, or one inside it for each of several."""
        if self.to is None:
            return None
        folder = self.to.expanduser().absolute()
        return folder if count == 1 else folder / name.split("/")[1]

    def _patterns(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        from deepgen.checkpoints.published import BASE_FILES, NOT_WEIGHTS

        if self.all:
            return ("*",), ()
        leave = NOT_WEIGHTS
        if self.without_transformer:
            leave += (
                "transformer/*.safetensors",
                "transformer/*.safetensors.index.json",
                "transformer/*.bin",
            )
        return BASE_FILES.get(name, ("*",)), leave

    def _fetch(self, name: str, folder: Path | None) -> Path:
        from huggingface_hub import constants

        from deepgen.checkpoints.hub_files import check_published, fetch, find_offline, list_files, list_sums

        allow, ignore = self._patterns(name)
        if constants.HF_HUB_OFFLINE and folder is None:
            found = find_offline(name, self.revision, allow, ignore, _say)
            _say(f"HF_HUB_OFFLINE is set; {name} is here, and its large files have the right sums")
            print(found, flush=True)
            return found
        listing = list_files(name, self.revision, allow=allow, ignore=ignore)
        known = check_published(listing)
        _describe(listing, folder)
        if self.plan:
            from deepgen.checkpoints.hub_files import check_space

            check_space(listing, folder)
            return folder or Path()
        found = fetch(listing, folder, _say)
        if folder is not None:
            list_sums(listing, folder)
        sums = f"all sums are the Hub's{f', {known} also those of the published revision' if known else ''}"
        _say(f"{name}: {len(listing.files)} files, {listing.nbytes / 1e9:.2f} GB; {sums}")
        print(found, flush=True)
        return found

    def _say_next(self, places: dict[str, Path]) -> None:
        from deepgen.checkpoints.published import BASE_FILES

        for name, place in places.items():
            if name not in BASE_FILES:
                _say(f"next: {self._next(name, place)}")
        if set(places) <= set(BASE_FILES):
            _say(f"next: {_convert('CHECKPOINT', places if self.to else {})}")

    def _next(self, name: str, place: Path) -> str:
        is_named = self.to is None and self.revision is None
        model = name if is_named else shlex.quote(str(place))
        if not (place / "model_index.json").is_file():
            return _convert(model, {})
        if self.without_transformer:
            return f"{_GENERATE} --model {shlex.quote(str(place))} --transformer-gguf FILE.gguf"
        return f"{_GENERATE} --model {model} --memory auto"


_GENERATE = 'deepgen generate "a lighthouse in fog"'


def _convert(checkpoint: str, bases: dict[str, Path]) -> str:
    from deepgen.checkpoints.published import BASE_PIPELINE, BASE_VLM

    parts = {"vlm": BASE_VLM, "transformer": BASE_PIPELINE, "vae": BASE_PIPELINE}
    named = [f" --{part} {shlex.quote(str(bases[name]))}" for part, name in parts.items() if name in bases]
    return f"deepgen convert {checkpoint} my-model{''.join(named)}"


def _describe(listing: Listing, folder: Path | None) -> None:
    from huggingface_hub import constants

    from deepgen.checkpoints.hub_files import missing_bytes

    left = missing_bytes(listing, folder)
    _say(
        f"{listing.name} at {listing.commit[:7]}: {len(listing.files)} files, {listing.nbytes / 1e9:.2f} GB, "
        f"of which {left / 1e9:.2f} GB are missing in {folder or constants.HF_HUB_CACHE}"
    )


def _say(text: str) -> None:
    print(f"deepgen: {text}", file=sys.stderr, flush=True)
