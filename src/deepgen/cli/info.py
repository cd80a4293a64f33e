"""`deepgen info`: what a checkpoint is, without loading it; or how a picture was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from deepgen.cli.options import needed_model
from deepgen.cli.outputs import print_report
from deepgen.embedded import model_source

if TYPE_CHECKING:
    from deepgen.data.png import ImageRecord

_IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class ImageReport:
    """The records of a picture, or of the pictures on a sheet."""

    records: list[ImageRecord]

    def to_dict(self) -> dict[str, Any]:
        """Of one picture its record, of a sheet a list under `images`."""
        found = [asdict(record) for record in self.records]
        return found[0] if len(found) == 1 else {"images": found}

    def __str__(self) -> str:
        texts = []
        for record in self.records:
            given = {name: value for name, value in asdict(record).items() if value not in (None, ())}
            given |= {"image": ", ".join(record.image)} if record.image else {}
            texts.append("\n".join(f"{name:20} {value}" for name, value in given.items()))
        return "\n\n".join(texts)


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a checkpoint or an architecture holds and the memory it needs, or how a picture was made."""

    path: Positional[Annotated[str | None, arg(metavar="NAME|PATH")]] = None
    """`tiny`, `shapes`, a folder, checkpoint file, Hub name, architecture (deepgen-1.0), or a picture."""
    model: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Another way to name it."""
    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0 once it is printed."""
        name = needed_model(self.path, self.model, "info")
        if Path(name).suffix.lower() in _IMAGES:
            print_report(_of_image(Path(name).expanduser()), as_json=self.json)
            return 0
        from deepgen.checkpoints.info import info

        source = model_source(name)
        print_report(info(source), as_json=self.json)
        return 0


def _of_image(path: Path) -> ImageReport:
    """The records of a picture's file; ValueError where it has none."""
    from deepgen.data.images import open_image
    from deepgen.data.png import read_records

    open_image(str(path))  # says what is wrong with a file that is no picture
    records = read_records(path)
    if not records:
        raise ValueError(
            f"{path} has no record of how it was made; it was saved by another program, or without metadata"
        )
    return ImageReport(records)
