"""What is done otherwise than in official scorers on purpose, each with its reason and its `--protocol`.

`make parity-bench` prints the list, and the tests of parsers allow no other difference. A fault of an
official scorer that `--protocol official` repeats is listed as different under "fixed" alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One rule.

    Attributes:
        benchmarks: whose.
        official: what the official scorer does.
        ours: what is done here instead.
        reason: why.
        protocol: under which `--protocol` it is different.
    """

    benchmarks: tuple[str, ...]
    official: str
    ours: str
    reason: str
    protocol: Literal["both", "fixed"] = "both"

    def __str__(self) -> str:
        """One line."""
        where = "either protocol" if self.protocol == "both" else f"--protocol {self.protocol}"
        names = ", ".join(self.benchmarks)
        return f"{names} ({where}): officially {self.official}; here {self.ours}, because {self.reason}"


_RISE = ("risebench", "unireditbench")
_JUDGED = ("corebench", "dpg", "gedit", "imgedit", *_RISE, "unigenbench", "wise")
DIFFERENCES: dict[str, Difference] = {
    "thinking": Difference(
        benchmarks=_JUDGED,
        official="most parsers read what a judge thinks aloud like the rest of its reply",
        ours="thinking is taken off first, and one without an end is asked again with more tokens",
        reason="words that a judge weighs are not its verdict",
    ),
    "failed replies": Difference(
        benchmarks=_JUDGED,
        official="a question that fails in all attempts is left out of the mean, or stops the script",
        ours="its picture has no score, which is said, and the next run asks it again (in risebench it "
        "counts as wrong, as officially)",
        reason="the mean of what happened to be answered is another number",
    ),
    "wise: grades above 2": Difference(
        benchmarks=("wise",),
        official="a 7 on the scale from 0 to 2 counts as 7",
        ours="it is refused and asked again",
        reason="the score would leave its range from 0 to 1",
    ),
    "gedit: grades off the scale": Difference(
        benchmarks=("gedit",),
        official="JSON with grades below 0 or above 10 is taken as it is",
        ours="it is asked again",
        reason="the question asks for 0 to 10",
    ),
    "gedit: dice": Difference(
        benchmarks=("gedit",),
        official="from the second attempt on, a reply without braces gets a random grade",
        ours="it is asked again, and at last a failed item",
        reason="a random number is no grade",
    ),
    "gedit: objects that are no JSON": Difference(
        benchmarks=("gedit",),
        official="the repair puts quotes around keys and reads one number, and gives up on lists and quotes",
        ours="the number or the pair behind the last key named score is read",
        reason="the grade can be read without doubt, and asking again costs a call",
    ),
    "gedit: one list among other brackets": Difference(
        benchmarks=("gedit",),
        official="a list has to reach from the first bracket to the last, with one blank at most; a bare "
        "number has no full stop",
        ours="one list of two whole numbers is read wherever it stands, and a number with a full stop",
        reason="the grade can be read without doubt, and asking again costs a call",
    ),
    "final score: grades above 5": Difference(
        benchmarks=_RISE,
        official="any number is taken",
        ours="it is asked again",
        reason="the question asks for 1 to 5 (a 0 counts, as officially)",
    ),
    "final score: several numbers": Difference(
        benchmarks=("risebench",),
        official="every number after the words is taken, and the columns of the sample shift",
        ours="the first counts, as in the script of UniREditBench",
        reason="a grade of one question would stand for another",
    ),
    "risebench: logical grades of 2 to 4": Difference(
        benchmarks=("risebench",),
        official="every number from 1 on is a 1, so 2, 3 and 4 are full marks",
        ours="they are asked again; 0, 1 and 5 are read in either protocol",
        reason="they lie between right and wrong on a scale that was not asked for",
        protocol="fixed",
    ),
    "risebench: free of consistency": Difference(
        benchmarks=("risebench",),
        official="one such sample takes consistency out of every score; where an edit has a reference "
        "picture, consistency is judged against that",
        ours="consistency is left out where it is not asked for, and judged against the source",
        reason="the official script reads an absent value as a set one, and an edit starts from its source",
        protocol="fixed",
    ),
    "imgedit: fewer than three grades": Difference(
        benchmarks=("imgedit",),
        official="the mean of all lines with a number, however many and however large",
        ours="a reply has three grades from 1 to 5 or is asked again",
        reason="a part of the grades is no verdict",
        protocol="fixed",
    ),
    "corebench: Yes with a capital": Difference(
        benchmarks=("corebench",),
        official="the path for open judges does not read it, and the question counts for nothing",
        ours="it is read, as in the official path for Gemini; neither yes nor no is asked again",
        reason="it is an answer",
        protocol="fixed",
    ),
    "corebench: no blank line after thinking": Difference(
        benchmarks=("corebench",),
        official="an answer follows the closing tag and a blank line",
        ours="it follows the closing tag",
        reason="the blank line is a habit of one model",
    ),
    "unigenbench: failed pictures": Difference(
        benchmarks=("unigenbench",),
        official="left out, as here; the evaluation while DeepGen's RL ran counts them as no for every point",
        ours="left out; aggregate_as_deepgen_rl gives the other number",
        reason="the published table is by the official scorer",
    ),
    "unigenbench: row 509 of en_long": Difference(
        benchmarks=("unigenbench",),
        official="a missing comma in its JSON stops the script; it is left out",
        ours="it is repaired and counts",
        reason="its test points are there",
        protocol="fixed",
    ),
    "dpg: a judge's words": Difference(
        benchmarks=("dpg",),
        official="mPLUG's answer is a yes where it is just that word, and a no otherwise",
        ours="a judge's capital, blanks and full stop are forgiven; what is neither yes nor no is asked "
        "again (dpg:vqa follows the official rule)",
        reason="a chat model does not answer in bare words alone, and its silence is no no",
    ),
    "dpg: first row and last picture": Difference(
        benchmarks=("dpg",),
        official="the first row of the table is not read, and categories look at the last picture only",
        ours="every row is read, and every picture counts",
        reason="both are slips of the official script (its issues 60 and 61)",
        protocol="fixed",
    ),
}
