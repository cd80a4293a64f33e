"""A summary of what the storybook world contains, for people who ask about a model that draws it."""

from __future__ import annotations

from typing import Any

from deepgen.tiny.edits import EDIT_KINDS
from deepgen.tiny.facts import load_facts
from deepgen.tiny.language import said
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.reasoning import REASONING_KINDS
from deepgen.tiny.reasoning_edits import REASONING_EDIT_KINDS
from deepgen.tiny.scene import GROUNDS, MOST_LETTERS, MOST_THINGS, SIZES, STYLES


def about() -> dict[str, Any]:
    """Nouns by category (each in the first that holds it), grounds, styles, edits, riddles: plain values."""
    facts = load_facts()
    nouns: dict[str, list[str]] = {name: [] for name in facts.categories}
    for noun in NOUNS:
        nouns[facts.category_of(noun)].append(said(noun))
    return {
        "name": "storybook",
        "num_nouns": len(NOUNS),
        "nouns": {facts.category_plurals[name]: members for name, members in nouns.items() if members},
        "grounds": list(GROUNDS),
        "styles": list(STYLES),
        "sizes": list(SIZES),
        "most_things": MOST_THINGS,
        "most_letters": MOST_LETTERS,
        "edits": list(EDIT_KINDS),
        "num_facts": len(facts.facts),
        "reasoning": list(REASONING_KINDS),
        "reasoning_edits": list(REASONING_EDIT_KINDS),
    }


def about_lines() -> list[str]:
    """The same in lines of text."""
    known = about()
    lines = [f"draws the storybook world: {known['num_nouns']} things"]
    lines += [f"  {name:18} {', '.join(nouns)}" for name, nouns in known["nouns"].items()]
    lines += [
        f"  up to {known['most_things']} things a picture, each {' or '.join(known['sizes'])}, drawn "
        f"{' or '.join(known['styles'])}; one word of 1 to {known['most_letters']} capitals",
        f"grounds              {', '.join(known['grounds'])}",
        f"edits                {', '.join(known['edits'])}",
        f"reasoning            {', '.join(known['reasoning'])}",
        f"reasoning edits      {', '.join(known['reasoning_edits'])}",
        f"it knows the {known['num_facts']} facts of its facts file about these things, and nothing else",
    ]
    return lines


def introduction() -> dict[str, Any]:
    """What a page says of such a model, see `deepgen.worlds.introduce`."""
    known = about()
    return {
        "description": (
            f"A small model of a storybook: it draws up to {known['most_things']} of {known['num_nouns']} "
            f"things on a plain background, and one word of 1 to {known['most_letters']} capital letters. It "
            "edits such pictures, and follows riddles about these things. It knows nothing else."
        ),
        "vocabulary": {
            **{name.capitalize(): members for name, members in known["nouns"].items()},
            "Backgrounds": known["grounds"],
            "Styles": known["styles"],
            "Edits": known["edits"],
        },
        "example_prompts": [
            "a cat and two apples on a pink background",
            "a small dog left of a big car",
            'a tree with the word "HI"',
            "the animal that gives milk",
        ],
        "example_edits": [
            "replace the cat with a rabbit",
            "make the background yellow",
            'write "OK" at the bottom',
            "it starts to rain",
        ],
    }
