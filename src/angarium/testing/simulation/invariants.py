"""What must hold when a run has come to rest, judged from what clients saw and the store holds.

Pure: facts in, sentences out. A sentence names the invariant (see the guarantees) and the few
facts that show it is broken; whoever prints it adds the seed.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a conversation as the store holds it."""

    sequence: int
    key: str
    user: str
    device: str
    cs: int


@dataclass(frozen=True, slots=True)
class Shown:
    """One message as a device opened it and made it durable."""

    sequence: int
    key: str
    user: str
    device: str
    text: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """One message a device submitted; `order` grows per device and conversation."""

    conversation: str
    key: str
    text: str
    order: int
    wants_answer: bool = False


@dataclass(slots=True)
class History:
    """What one device did and saw, over all its lives."""

    user: str
    device: str
    said: list[Said] = field(default_factory=list)
    acked: list[tuple[str, str, int]] = field(default_factory=list)  # conversation, key, seq
    shown: dict[str, list[Shown]] = field(default_factory=dict)  # from its own records
    told: dict[str, list[list[int]]] = field(default_factory=dict)  # per life, as called back


@dataclass(slots=True)
class Facts:
    """Everything a run leaves for the judge."""

    log: dict[str, list[Entry]]
    members: dict[str, frozenset[str]]
    histories: list[History]
    agents: frozenset[str] = frozenset()  # users that answer
    answers: dict[str, list[str]] = field(default_factory=dict)  # message key -> answering keys
    effects: list[tuple[str, int]] = field(default_factory=list)  # done for a message
    misdelivered: list[str] = field(default_factory=list)  # seen on the wire
    reused_steps: list[str] = field(default_factory=list)  # seen on the wire
    leaks: list[str] = field(default_factory=list)  # places where a canary was found
    taken_keys: list[tuple[str, str]] = field(default_factory=list)  # one-time keys handed out
    over_limit: list[str] = field(default_factory=list)  # queues seen above their bound
    unhandled: list[str] = field(default_factory=list)  # errors that nobody looked at
    unfinished: list[str] = field(default_factory=list)  # not at rest within the bound


def judge(facts: Facts) -> list[str]:
    """Every broken invariant, as sentences; an empty list means the run is clean."""
    checks: tuple[Callable[[Facts], Iterable[str]], ...] = (
        stored_once,
        sequences_are_dense,
        logs_equal_the_store,
        retries_keep_their_sequence,
        devices_keep_their_order,
        nobody_else_receives,
        recovered_in_time,
        answered_once,
        done_at_most_once,
        keys_taken_once,
        ratchets_move_on,
    )
    found = [sentence for check in checks for sentence in check(facts)]
    found += [f"I7 {place}" for place in facts.over_limit]
    found += [f"I9 plaintext in {place}" for place in facts.leaks]
    found += [f"an error nobody handled: {error}" for error in facts.unhandled]
    return found


def stored_once(facts: Facts) -> Iterable[str]:
    """I1: what was acknowledged is stored exactly once."""
    for conversation, entries in facts.log.items():
        for (device, key), times in Counter((e.device, e.key) for e in entries).items():
            if times > 1:
                yield f"I1 {short(conversation)}: key {short(key)} of {device} x{times}"
    stored = {(c, e.key) for c, entries in facts.log.items() for e in entries}
    for history in facts.histories:
        for conversation, key, sequence in history.acked:
            if (conversation, key) not in stored:
                place = f"{short(conversation)}/{sequence}"
                yield f"I1 {history.device}: acknowledged {place} is not stored"


def sequences_are_dense(facts: Facts) -> Iterable[str]:
    """I2: exactly 1..N."""
    for conversation, entries in facts.log.items():
        sequences = [entry.sequence for entry in entries]
        if sequences != list(range(1, len(sequences) + 1)):
            yield f"I2 {short(conversation)}: sequences are {sequences}"


def logs_equal_the_store(facts: Facts) -> Iterable[str]:
    """I3: each device of each participant shows the store's log, once, in order."""
    for history in facts.histories:
        for conversation, entries in facts.log.items():
            if history.user not in facts.members.get(conversation, ()):
                continue
            wanted = [(entry.sequence, entry.key) for entry in entries]
            shown = history.shown.get(conversation, [])
            found = [(one.sequence, one.key) for one in shown]
            place = f"I3 {history.device} in {short(conversation)}"
            if found != wanted:
                yield f"{place}: shows {[s for s, _ in found]} of {len(wanted)}"
            for one in shown:
                if one.problem:
                    yield f"{place}: {one.sequence} of {one.device} is {one.problem}"
            yield from _told_once(place, history.told.get(conversation, []))
    yield from _texts_agree(facts)


def _told_once(place: str, lives: list[list[int]]) -> Iterable[str]:
    """In order within a life, and never twice in all. Not in order among lives: an owner that
    stood still after its write was durable tells of it when it goes on, and its successor has
    gone further by then; what it then does is fenced."""
    told: set[int] = set()
    for sequences in lives:
        highest = 0
        for sequence in sequences:
            if sequence <= highest:
                yield f"{place}: told {sequence} after {highest}"
            elif sequence in told:
                yield f"{place}: told {sequence} twice"
            highest = max(highest, sequence)
            told.add(sequence)


def _texts_agree(facts: Facts) -> Iterable[str]:
    written = {
        (said.conversation, said.key): said.text
        for history in facts.histories
        for said in history.said
    }
    for history in facts.histories:
        for conversation, shown in history.shown.items():
            for one in shown:
                wanted = written.get((conversation, one.key))
                if wanted is not None and not one.problem and one.text != wanted:
                    place = f"{short(conversation)}/{one.sequence}"
                    yield f"I3 {history.device}: {place} does not say what was written"


def retries_keep_their_sequence(facts: Facts) -> Iterable[str]:
    """I4: every acknowledgement of a key names the sequence it is stored under."""
    at = {(c, e.key): e.sequence for c, entries in facts.log.items() for e in entries}
    for history in facts.histories:
        for conversation, key, sequence in history.acked:
            stored = at.get((conversation, key), sequence)
            if sequence and stored != sequence:  # 0: only the fact was told.
                place = f"I4 {history.device}: key {short(key)}"
                yield f"{place} was acknowledged as {sequence}, is stored as {stored}"


def devices_keep_their_order(facts: Facts) -> Iterable[str]:
    """I5: a device's messages stand in the order it submitted them, counters dense."""
    for conversation, entries in facts.log.items():
        counters: dict[str, list[int]] = {}
        for entry in entries:
            counters.setdefault(entry.device, []).append(entry.cs)
        for device, found in counters.items():
            if found != list(range(1, len(found) + 1)):
                yield f"I5 {short(conversation)}: {device} counted {found}"
    for history in facts.histories:
        for conversation, entries in facts.log.items():
            own = [e.key for e in entries if e.device == history.device]
            said = sorted(
                (s for s in history.said if s.conversation == conversation),
                key=lambda s: s.order,
            )
            wanted = [s.key for s in said if s.key in set(own)]
            if [key for key in own if key in set(wanted)] != wanted:
                yield f"I5 {short(conversation)}: {history.device} wrote in another order"


def nobody_else_receives(facts: Facts) -> Iterable[str]:
    """I6: nothing reaches a non-member, no ciphertext another device's connection."""
    for history in facts.histories:
        for conversation, shown in history.shown.items():
            if shown and history.user not in facts.members.get(conversation, ()):
                yield f"I6 {history.device} is no member of {short(conversation)}"
    for place in facts.misdelivered:
        yield f"I6 {place}"


def recovered_in_time(facts: Facts) -> Iterable[str]:
    """I8: everything said is stored, and all is at rest, within the bound."""
    for what in facts.unfinished:
        yield f"I8 {what}"
    stored = {(c, e.key) for c, entries in facts.log.items() for e in entries}
    for history in facts.histories:
        missing = [s for s in history.said if (s.conversation, s.key) not in stored]
        if missing:
            first = missing[0]
            place = f"{short(first.conversation)}, key {short(first.key)}"
            yield f"I8 {history.device}: {len(missing)} submitted, never stored ({place})"


def answered_once(facts: Facts) -> Iterable[str]:
    """I10: each message that wants an answer has exactly one."""
    if not facts.agents:
        return
    for history in facts.histories:
        for said in history.said:
            answers = facts.answers.get(said.key, [])
            if said.wants_answer and len(answers) != 1:
                place = f"{short(said.conversation)}, key {short(said.key)}"
                yield f"I10 {history.device}: {len(answers)} answers ({place})"


def done_at_most_once(facts: Facts) -> Iterable[str]:
    """I10: what an agent declares as `once` happens at most once for a message."""
    for (conversation, sequence), times in Counter(facts.effects).items():
        if times > 1:
            yield f"I10 {short(conversation)}/{sequence}: done {times} times"


def keys_taken_once(facts: Facts) -> Iterable[str]:
    """I11: a one-time prekey is handed out at most once."""
    for (device, key_id), times in Counter(facts.taken_keys).items():
        if times > 1:
            yield f"I11 one-time key {key_id} of {device} was taken {times} times"


def ratchets_move_on(facts: Facts) -> Iterable[str]:
    """A ratchet step seals one message: state is durable before its ciphertext leaves."""
    for step in facts.reused_steps:
        yield f"a ratchet step sealed two messages: {step}"


def short(identifier: str) -> str:
    return identifier[-6:]
