"""An oracle made of neither the reward model's encoder nor the policy's likelihood: an editor's checklist of words.

    U = min(n, 6) / 2 + 2 (1 - |f - .45| / .45) - 3 e - 4 q

n: different words of four letters or more that the prompt does not have; f: share of function words, about .45 in
English prose; e: share of the answer's words that are content words of the prompt; q: share of repeated word pairs.
An answer that adds nothing earns nothing for n and pays for e; a list of topic words has no function words. Bounded, so
that it cannot be raised without end. It knows no topic: a sound sentence about something else has full marks.

    foresighted train --labels docs/study/oracle.py:checklist
"""

from __future__ import annotations

from collections.abc import Sequence

from foresighted.labels.labellers import Utilities, added
from foresighted.texts import repetition, words

FUNCTION_WORDS = frozenset(
    words(
        "a about after all also an and any are as at be because been before but by can could did do does for from had"
        " has have he her his how i if in into is it its just may me more most my no not of on one only or other our"
        " out she so some such than that the their them then there these they this to too up was we were what when"
        " where which while who why will with would you your"
    )
)
LONG, MOST, USUAL = 4, 6, 0.45


class Checklist(Utilities):
    """Its utility of an answer, between about -7 and 5."""

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return U of each response."""
        return [_utility(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def _utility(prompt: str, response: str) -> float:
    said = words(response)
    if not said:
        return -7.0
    new = added(prompt, response).split()
    content = {word for word in new if len(word) >= LONG and word not in FUNCTION_WORDS}
    function = sum(word in FUNCTION_WORDS for word in said) / len(said)
    echo = sum(word not in FUNCTION_WORDS for word in said if word not in set(new)) / len(said)
    natural = 1 - abs(function - USUAL) / USUAL
    return min(len(content), MOST) / 2 + 2 * natural - 3 * echo - 4 * repetition(response)


checklist = Checklist()
