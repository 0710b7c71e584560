"""The judge: silent about a clean run, and it names each invariant when that is broken."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from angarium.testing.simulation.invariants import Entry, Facts, History, Said, Shown, judge

TALK, ANNA, BOT = "conversation-1", "@anna:angarium", "@bot:angarium"


def clean() -> Facts:
    log = [
        Entry(1, "key-1", ANNA, "ANNA01", 1),
        Entry(2, "key-2", BOT, "BOT001", 1),
        Entry(3, "key-3", ANNA, "ANNA01", 2),
        Entry(4, "key-4", BOT, "BOT001", 2),
    ]
    texts = {1: "hello", 2: "hi", 3: "more", 4: "yes"}
    shown = [Shown(e.sequence, e.key, e.user, e.device, texts[e.sequence]) for e in log]
    anna = History(
        ANNA,
        "ANNA01",
        said=[
            Said(TALK, "key-1", "hello", 1, wants_answer=True),
            Said(TALK, "key-3", "more", 2, wants_answer=True),
        ],
        acked=[(TALK, "key-1", 1), (TALK, "key-3", 3), (TALK, "key-3", 3)],
        shown={TALK: shown},
        told={TALK: [[1, 2], [3, 4]]},
    )
    bot = History(BOT, "BOT001", shown={TALK: list(shown)})
    return Facts(
        log={TALK: log},
        members={TALK: frozenset({ANNA, BOT})},
        histories=[anna, bot],
        agents=frozenset({BOT}),
        answers={"key-1": ["key-2"], "key-3": ["key-4"]},
        taken_keys=[("BOT001", "a"), ("BOT001", "b")],
    )


def anna(facts: Facts) -> History:
    return facts.histories[0]


def stored_twice(facts: Facts) -> None:
    facts.log[TALK].append(Entry(5, "key-3", ANNA, "ANNA01", 3))


def acknowledged_and_lost(facts: Facts) -> None:
    anna(facts).acked.append((TALK, "key-9", 5))


def hole_in_the_log(facts: Facts) -> None:
    facts.log[TALK][3] = replace(facts.log[TALK][3], sequence=5)


def missing_at_a_device(facts: Facts) -> None:
    anna(facts).shown[TALK].pop()


def shown_twice(facts: Facts) -> None:
    anna(facts).told[TALK] = [[1, 2, 3], [3, 4]]


def does_not_open(facts: Facts) -> None:
    anna(facts).shown[TALK][1] = replace(
        anna(facts).shown[TALK][1], text="", problem="undecryptable"
    )


def changed_text(facts: Facts) -> None:
    facts.histories[1].shown[TALK][0] = replace(anna(facts).shown[TALK][0], text="bye")


def acknowledged_elsewhere(facts: Facts) -> None:
    anna(facts).acked.append((TALK, "key-1", 2))


def counter_skipped(facts: Facts) -> None:
    facts.log[TALK][2] = replace(facts.log[TALK][2], cs=3)


def order_swapped(facts: Facts) -> None:
    anna(facts).said = [replace(said, order=-said.order) for said in anna(facts).said]


def shown_to_a_stranger(facts: Facts) -> None:
    facts.members[TALK] = frozenset({ANNA})


def wrong_device(facts: Facts) -> None:
    facts.misdelivered.append("a ciphertext for ANNA01 went to BOT001")


def over_its_bound(facts: Facts) -> None:
    facts.over_limit.append("held messages: 600")


def never_stored(facts: Facts) -> None:
    anna(facts).said.append(Said(TALK, "key-7", "lost", 3))


def plaintext_found(facts: Facts) -> None:
    facts.leaks.append("the database")


def answered_twice(facts: Facts) -> None:
    facts.answers["key-1"].append("key-5")


def not_answered(facts: Facts) -> None:
    del facts.answers["key-3"]


def done_twice(facts: Facts) -> None:
    facts.effects += [(TALK, 3), (TALK, 3)]


def key_taken_twice(facts: Facts) -> None:
    facts.taken_keys.append(("BOT001", "a"))


def step_reused(facts: Facts) -> None:
    facts.reused_steps.append("ANNA01 to BOT001")


def error_unseen(facts: Facts) -> None:
    facts.unhandled.append("ValueError()")


BREAKS: list[tuple[Callable[[Facts], None], str]] = [
    (stored_twice, "I1"),
    (acknowledged_and_lost, "I1"),
    (hole_in_the_log, "I2"),
    (missing_at_a_device, "I3"),
    (shown_twice, "I3"),
    (does_not_open, "I3"),
    (changed_text, "I3"),
    (acknowledged_elsewhere, "I4"),
    (counter_skipped, "I5"),
    (order_swapped, "I5"),
    (shown_to_a_stranger, "I6"),
    (wrong_device, "I6"),
    (over_its_bound, "I7"),
    (never_stored, "I8"),
    (plaintext_found, "I9"),
    (answered_twice, "I10"),
    (not_answered, "I10"),
    (done_twice, "I10"),
    (key_taken_twice, "I11"),
    (step_reused, "a ratchet step"),
    (error_unseen, "an error"),
]


def test_a_clean_run_has_nothing_against_it() -> None:
    assert judge(clean()) == []


@pytest.mark.parametrize(("spoil", "named"), BREAKS, ids=[b.__name__ for b, _ in BREAKS])
def test_each_damage_is_named(spoil: Callable[[Facts], None], named: str) -> None:
    facts = clean()
    spoil(facts)

    assert any(sentence.startswith(named) for sentence in judge(facts))


def test_an_owner_that_stood_still_may_tell_late_what_it_alone_was_given() -> None:
    facts = clean()
    anna(facts).told[TALK] = [[1, 3], [4], [2]]
    assert judge(facts) == []


def test_what_goes_back_within_a_life_is_named() -> None:
    facts = clean()
    anna(facts).told[TALK] = [[1, 3, 2, 4]]
    assert [violation for violation in judge(facts) if "told 2 after 3" in violation]
