"""Parsing of the command line, with every mistake reported in one line.

tyro parses. What it prints about a mistake fills a screen and names options of every other command, so it is
read here and put into one line. The near misses are looked for among the options of the command that was
typed; which those are is read from the commands' own dataclasses.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass
from functools import reduce
from io import StringIO
from operator import or_
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import subcommand

from deepgen.cli.edit import in_order
from deepgen.cli.train import for_recipe, with_command
from deepgen.embedded import is_embedded
from deepgen.suggestions import suggestion, suggestion_or_all

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_OPTION = re.compile(r"--?[A-Za-z]")


def parse(commands: Any, arguments: Sequence[str], description: str) -> Any:
    """The command, ready to run.

    Args:
        commands: a union of dataclasses, each annotated with the name of its command.
        arguments: what was typed after `deepgen`.
        description: what `--help` opens with.

    Raises:
        SystemExit: with 2 after one line on stderr about what cannot be understood; with 0 after `--help`.
    """
    arguments = list(arguments)
    if arguments[:1] == ["edit"]:
        arguments = ["edit", *in_order(arguments[1:])]
    if arguments[:1] == ["train"]:
        arguments = ["train", *with_command(arguments[1:])]
        try:
            commands = _with(commands, "train", for_recipe(arguments[1:]))
        except (ValueError, OSError) as error:
            print(f"deepgen: error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from error
    said = StringIO()
    try:
        with redirect_stderr(said):
            command = tyro.cli(commands, prog="deepgen", description=description, args=arguments)
    except SystemExit as stop:
        if stop.code == 2:
            print(f"deepgen: error: {explain(commands, arguments, said.getvalue())}", file=sys.stderr)
        else:
            sys.stderr.write(said.getvalue())
        raise
    sys.stderr.write(said.getvalue())  # warnings
    return command


def explain(commands: Any, arguments: Sequence[str], printed: str) -> str:
    """One line about arguments that tyro refused, from what it printed about them."""
    path, command, words = _command(commands, arguments)
    called = " ".join(["deepgen", *path])
    text = _unboxed(printed)
    if isinstance(command, Mapping):
        return _no_command(called, command, words)
    unknown = _unknown_option(commands, called, command, words)
    if unknown and ("Unrecognized " in text or "did you mean" in unknown):
        return unknown  # a misspelt option often shows as something else that is missing
    if "Unrecognized " in text and is_embedded(words[0]) and "--model" in _options(command):
        return f"{called} takes the model as an option: --model {words[0]}"
    if "Unrecognized " in text:
        return (
            f"{called} was given more words than it takes: {' '.join(words)!r}; put a text of several words "
            "in quotes"
        )
    if found := re.search(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*?)\)", text):
        value, option, choices = found[1], _as_typed(found[2], words), found[3]
        known = re.findall(r"'(.*?)'", choices)
        if option == "--device":  # "gpu" is nearest to "cpu", and means the opposite
            return f"{option} {value!r} is unknown; known: {', '.join(known)}"
        return f"{option} {value!r} is unknown{suggestion_or_all(value, known)}"
    if found := re.search(r"Missing value for argument '(.*?)'", text):
        if not found[1].startswith("-"):  # tyro's path of a positional: `action.name`
            return f"{called} needs {found[1].rpartition('.')[2].upper()}; see {called} --help"
        return f"{_as_typed(found[1], words)} needs a value; see {called} --help"
    if found := re.search(r"Error parsing (\S+): .*?\|?([A-Z][A-Z0-9]*) could be .*? from \[(.*?)\]", text):
        return f"{_as_typed(found[1], words)} {found[3]} is no {_WORDS.get(found[2], found[2])}"
    if found := re.search(r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", text):
        return f"{_as_typed(found[1], words)} {found[2].split(' ')[0]} is no whole number"
    if "Missing from " in text:
        return f"{called} needs {', '.join(_missing(printed)) or 'more'}; see {called} --help"
    return text or f"these arguments cannot be understood; see {called} --help"


_WORDS = {"INT": "whole number", "FLOAT": "number"}


def _as_typed(option: str, words: Sequence[str]) -> str:
    """The spelling that was typed of an option; tyro names all, as in `--steps/--num-inference-steps`."""
    typed = {word.partition("=")[0].replace("_", "-") for word in words}
    return next((name for name in option.split("/") if name in typed), option)


def _command(commands: Any, arguments: Sequence[str]) -> tuple[list[str], Any, list[str]]:
    """(names typed, the command's class or a mapping of what could follow, the words after it)."""
    path, words = [], list(arguments)
    known = _subcommands(commands)
    while words and words[0] in known:
        path.append(words.pop(0))
        command = known[path[-1]]
        known = next((found for found in map(_subcommands, _hints(command).values()) if found), {})
        if not known:
            return path, command, words
    return path, known, words


def _with(commands: Any, name: str, command: type) -> Any:
    """The union of commands, with another class for one of them."""
    kinds = {**_subcommands(commands), name: command}
    members = (Annotated[kind, subcommand(name)] for name, kind in kinds.items())
    return reduce(or_, members)


def _subcommands(kind: Any) -> dict[str, type]:
    """name -> class of a union of commands; empty for any other type."""
    while get_origin(kind) is not None and hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    found = {}
    for member in get_args(kind):
        names = [note.name for note in getattr(member, "__metadata__", ()) if hasattr(note, "prefix_name")]
        if names and is_dataclass(get_args(member)[0]) and names[0] is not None:
            found[names[0]] = get_args(member)[0]
    return found


def _no_command(called: str, known: Mapping[str, type], words: Sequence[str]) -> str:
    names = list(known)
    if not words:
        return f"{called} needs a command: {', '.join(names)}"
    word = words[0]
    if word.startswith("-"):
        return f"unknown option {word}{suggestion(word, ['--help', '--version']) or f'; see {called} --help'}"
    if word in ("help", "version"):
        return f"there is no command {word!r}; did you mean deepgen --{word}?"
    if " " in word and "generate" in known:
        return f'there is no command {word!r}; to draw it: {called} generate "{word}"'
    return f"there is no command {word!r}{suggestion_or_all(word, names)}"


def _unknown_option(commands: Any, called: str, command: type, words: Sequence[str]) -> str:
    """About the first option that the command does not have; nothing where it has them all."""
    own = list(_options(command))
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if not _OPTION.match(word) or name in own:
            continue
        others = [other for other, kind in _all_commands(commands) if name in _options(kind)]
        group = called.removeprefix("deepgen ").split(" ")[0]
        others.sort(key=lambda other: not other.startswith(f"{group} "))  # its sisters first
        if others:
            return f"{called} has no option {name}; deepgen {others[0]} has"
        return f"unknown option {word}{suggestion(name, own) or f'; see {called} --help'}"
    return ""


def _all_commands(commands: Any, path: str = "") -> Iterator[tuple[str, type]]:
    for name, command in _subcommands(commands).items():
        yield f"{path}{name}", command
        for kind in _hints(command).values():
            yield from _all_commands(kind, f"{path}{name} ")


def _hints(command: type) -> dict[str, Any]:
    return get_type_hints(command, include_extras=True)


def _options(command: type, part: str = "") -> Iterator[str]:
    """Every spelling of a command's options; `part`: of which part of it, such as `optim.`."""
    if not part:
        yield from ("-h", "--help")
    hints = _hints(command)
    for field in fields(command):
        notes = getattr(hints[field.name], "__metadata__", ())
        if "Positional" in map(str, notes):
            continue
        name = part + field.name.replace("_", "-")
        if is_dataclass(kind := hints[field.name]) and isinstance(kind, type):
            yield from _options(kind, f"{name}.")
            continue
        yield f"--{name}"
        if hints[field.name] is bool:
            yield f"--no-{name}"
        for note in notes:
            yield from getattr(note, "aliases", None) or ()


def _missing(printed: str) -> list[str]:
    """The names of what is missing: they are indented once, and what is said about each, twice."""
    names, depth = [], 0
    rows = _rows(printed)
    start = next(place for place, row in enumerate(rows) if row.lstrip().startswith("Missing from "))
    for row in rows[start + 1 :]:
        indent = len(row) - len(row.lstrip())
        depth = depth or indent
        if indent == depth:
            names.append(row.strip())
    return names


def _unboxed(printed: str) -> str:
    """What tyro's frame says above its first line, in one line."""
    return " ".join(row.strip() for row in _rows(printed))


def _rows(printed: str) -> list[str]:
    """The rows in tyro's frame above its first line, without its title.

    Where the terminal cannot show it, the frame is made of blanks and dashes, and the title is a row.
    """
    rows = [_COLOR.sub("", row) for row in printed.splitlines()]
    rows = rows[1:] if rows and rows[0].startswith("╭") else rows[2:]
    found = []
    for row in rows:
        content = row.strip("│").rstrip()
        if content.strip() and set(content.strip()) <= set("─-╰╯"):
            break
        if content.strip():
            found.append(content)
    return found
