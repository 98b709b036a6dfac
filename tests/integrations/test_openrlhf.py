"""What OpenRLHF's labels may say, and how siblings wait for each other, without OpenRLHF."""

from __future__ import annotations

import asyncio

import pytest

from foresighted.errors import ConfigError, DataError, ForesightedError, RunError
from foresighted.integrations.openrlhf.executor import Group, agent_executor, told_by


def test_a_label_says_what_it_may_and_nothing_else(told):
    assert told_by("gold answer") == {}
    assert told_by({"evaluation": True, "step": None, "mine": 3}) == {"evaluation": True}
    for key, value in (("evaluation", "yes"), ("step", True), ("step", 1.5), ("references", "one"), ("prompt", 3)):
        with pytest.raises(DataError) as error:
            told_by({key: value})
        told(error, "label", key, repr(value), "expected")


def test_the_last_sibling_asks_once_for_all_in_their_order():
    asked = []

    async def ask(responses):
        asked.append(responses)
        return [text.upper() for text in responses]

    async def play():
        group = Group("a")
        places = [group.enter() for _ in range(3)]
        order = (2, 0, 1)
        found = await asyncio.gather(*(group.paid(place, "abc"[place], ask) for place in order))
        return places, dict(zip(order, found, strict=True))

    assert asyncio.run(play()) == ([0, 1, 2], {0: "A", 1: "B", 2: "C"})
    assert asked == [["a", "b", "c"]]


def test_where_one_sibling_fails_all_do(told):
    async def play(fault, asking):
        group = Group("a")
        for _ in range(2):
            group.enter()

        async def ask(_):
            raise fault

        async def second():
            if asking:
                return await group.paid(1, "b", ask)
            group.fail(fault)
            raise fault

        return await asyncio.gather(group.paid(0, "a", ask), second(), return_exceptions=True)

    for asking in (True, False):
        first, second = asyncio.run(play(DataError("prompt: none"), asking))
        assert isinstance(first, DataError)
        assert first is second
        first, second = asyncio.run(play(ValueError("no room"), asking))
        assert isinstance(first, RunError)
        assert isinstance(second, ForesightedError | ValueError)
        told(first, "group a", "a member failed", "no room")


def test_outside_of_openrlhf_that_is_said(told):
    with pytest.raises(ConfigError) as error:
        agent_executor("rewards")
    told(error, "openrlhf", "is not installed here", "environment")
