"""YAML files of people, read so that a small file cannot take all memory.

An alias repeats what an anchor named. Ten levels of ten aliases are ten thousand million nodes once they are
merged or printed, so their number is counted before anything is built; depth is limited in the same place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepgen.extras import Extra, missing_extra
from deepgen.text_lines import read_text

MOST_BYTES = 4 * 2**20
DEEPEST = 64  # levels of lists and mappings
MOST_REPEATED = 100_000  # nodes that aliases may stand for, together


def read_yaml(path: Path, needs: str, extra: Extra) -> Any:
    """The content of a file.

    Args:
        path: of the file.
        needs: who needs PyYAML, for the error where it is missing, such as "mixture files need PyYAML".
        extra: which brings it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML, gives a name twice, or is built to be larger than it looks; one line that
            names the file.
    """
    try:
        import yaml
    except ImportError as error:
        raise missing_extra(needs, extra, error) from error

    class Loader(yaml.SafeLoader):
        """Refuses names that are given twice, of which YAML would silently keep the last, and bombs."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > DEEPEST:
                line = self.peek_event().start_mark.line + 1
                raise ValueError(f"nested deeper than {DEEPEST} levels in line {line}")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_document(self, node: Any) -> Any:
            _check_aliases(node)
            return super().construct_document(node)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise ValueError(
                        f"the name {key.value!r} is given twice, in line {key.start_mark.line + 1}"
                    )
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    if path.is_file() and (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, more than the {MOST_BYTES:,} that are read as YAML")
    text = read_text(path)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def _check_aliases(root: Any) -> None:
    """ValueError where aliases stand for too many nodes, or for what they are part of."""
    sizes: dict[int, int] = {}
    written: set[int] = set()
    open_nodes: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, is_done = waiting.pop()
        parts = _parts(node)
        if is_done:
            open_nodes.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(part)] for part in parts)
        elif id(node) in open_nodes:
            raise ValueError(f"the alias in line {node.start_mark.line + 1} is part of what it stands for")
        elif id(node) not in sizes:
            open_nodes.add(id(node))
            written.add(id(node))
            waiting.append((node, True))
            waiting += [(part, False) for part in parts]
    repeated = sizes[id(root)] - len(written)
    if repeated > MOST_REPEATED:
        raise ValueError(
            f"its aliases stand for {repeated:,} values, more than {MOST_REPEATED:,}; write them out"
        )


def _parts(node: Any) -> list[Any]:
    if isinstance(node.value, str):
        return []
    return [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
