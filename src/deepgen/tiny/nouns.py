"""The nouns of the world, and the name each has in the two sets of drawings where it differs."""

from __future__ import annotations

# Names in both sets where the noun itself is not the name.
DRAWN_AS = {
    "sheep": "ewe",
    "bee": "honeybee",
    "ladybug": "lady-beetle",
    "apple": "red-apple",
    "corn": "ear-of-corn",
    "cheese": "cheese-wedge",
    "cake": "birthday-cake",
    "tree": "deciduous-tree",
    "moon": "crescent-moon",
    "car": "automobile",
    "book": "closed-book",
    "clock": "alarm-clock",
    "ball": "soccer-ball",
    "hat": "top-hat",
    "gift": "wrapped-gift",
}
_LINES = (
    "cat dog rabbit horse cow pig sheep monkey elephant lion tiger bear panda frog chicken duck owl penguin",
    "fish whale octopus crab turtle snake snail butterfly bee ladybug",
    "apple banana grapes strawberry watermelon lemon pineapple cherries peach carrot broccoli corn mushroom",
    "bread cheese pizza hamburger cookie cake doughnut",
    "cactus tulip rose sunflower tree palm-tree",
    "sun moon cloud star rainbow snowflake fire umbrella",
    "car bus bicycle airplane rocket ship train tractor",
    "hammer scissors key book pencil clock bell",
    "guitar drum ball hat glasses crown gift balloon candle camera",
)
NOUNS = tuple(noun for line in _LINES for noun in line.split())

# Nouns that face a side which can be told at 22 pixels in both styles. The others look the same whichever way
# they stand, or have no side that people would name, so they are always drawn as they are in the sets.
_FACING_LINES = (
    "cat dog rabbit horse cow pig sheep elephant tiger chicken duck fish whale snake snail bee",
    "car bus bicycle airplane rocket ship tractor",
)
FACING_NOUNS = frozenset(noun for line in _FACING_LINES for noun in line.split())
DRAWN_FACING_RIGHT = frozenset({"airplane", "rocket"})  # in both sets; every other one faces left
