"""`deepgen convert`: any released or trained checkpoint in another layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from deepgen.cli.options import needed_model
from deepgen.embedded import model_source


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a checkpoint of any known layout as a folder of safetensors, or back in the original's layout."""

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """`tiny`, `shapes`, a folder, a checkpoint file or a Hub name; may be named with --model instead."""
    target: Positional[Annotated[Path | None, arg(metavar="TARGET")]] = None
    """Where to write; must not exist yet. With --gguf a file, FILE.gguf."""
    model: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Another way to name SOURCE; TARGET is then all that is left to say."""
    layout: Literal["deepgen", "native"] = "deepgen"
    """deepgen: a folder that loads as it is. native: the original's flat file."""
    gguf: Literal["none", "q8_0", "q5_0", "q4_0"] = "none"
    """Write one part as a GGUF file of 8, 5 or 4 bits a weight; needs the extra `quant`."""
    part: Literal["transformer", "vlm", "connector"] = "transformer"
    """Which part a GGUF file holds."""
    dtype: Literal["as stored", "float32", "bfloat16", "float16"] = "as stored"
    """Number format of the weights."""
    lora: Literal["merge", "adapter", "ignore"] = "merge"
    """What becomes of LoRA weights of the VLM. A native file keeps them as keys, unless ignored."""
    vlm: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """The VLM, where the checkpoint has none."""
    transformer: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """The DiT, where the checkpoint has none."""
    vae: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """The VAE, where the checkpoint has none."""
    connector_heads: Annotated[int | None, arg(metavar="INT")] = None
    """Attention heads of the connector, where neither the checkpoint nor a config.json beside it says."""

    def run(self) -> int:
        """Exit code 0 once the target is complete."""
        source, target = self._source_and_target()
        if self.gguf != "none":
            return self._write_gguf(source, target)
        from deepgen.checkpoints.convert import convert

        heads = {"num_attention_heads": self.connector_heads} if self.connector_heads is not None else None
        done = convert(
            model_source(source),
            target,
            layout=self.layout,
            dtype=None if self.dtype == "as stored" else self.dtype,
            lora=self.lora,
            vlm=self.vlm,
            transformer=self.transformer,
            vae=self.vae,
            connector_config=heads,
        )
        print(
            f"{done.destination}  {len(done.files)} files, {done.tensors} tensors, {done.nbytes / 1e9:.2f} GB"
        )
        return 0

    def _source_and_target(self) -> tuple[str, Path]:
        """ValueError unless there is one of each."""
        if self.model is not None and self.target is None:
            return self.model, Path(self.source)
        if self.target is None:
            raise ValueError(f"where to? name it after {self.source}: deepgen convert {self.source} TARGET")
        return needed_model(self.source, self.model, "convert"), self.target

    def _write_gguf(self, source: str, target: Path) -> int:
        from deepgen.checkpoints.gguf_files import convert_to_gguf

        if self.layout != "deepgen" or self.dtype != "as stored":
            raise ValueError(
                "--gguf is a layout and a number format of its own; leave out --layout and --dtype"
            )
        nbytes = convert_to_gguf(
            model_source(source),
            target,
            self.gguf.upper(),  # type: ignore[arg-type]
            part=self.part,
            lora=self.lora,
            vlm=self.vlm,
            transformer=self.transformer,
        )
        print(f"{target}  {self.part}, {self.gguf}, {nbytes / 1e9:.2f} GB")
        return 0
