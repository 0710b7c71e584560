"""Bookkeeping around the ratchets of one device."""

import vodozemac

from angarium.clock import ManualClock
from angarium.e2ee.sessions import Sessions, mark_of
from angarium.limits import OPENED_REMEMBERED, SESSION_UNANSWERED_MAX


class Ends:
    """Two accounts and the sessions of the first."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sessions = Sessions(self.clock, lambda n: bytes(n))
        self.own, self.other = vodozemac.Account(), vodozemac.Account()
        self.curve = self.other.curve25519_key.to_base64()

    def start(self) -> str:
        """A new outbound session; its id."""
        self.other.generate_one_time_keys(1)
        (key,) = self.other.one_time_keys.values()
        self.other.mark_keys_as_published()
        olm = self.own.create_outbound_session(self.other.curve25519_key, key)
        return self.sessions.add(self.curve, olm, greeting=True).olm.session_id


def test_a_session_unanswered_for_long_is_replaced() -> None:
    ends = Ends()
    ends.start()
    session = ends.sessions.best(ends.curve)
    assert session is not None
    session.unanswered = SESSION_UNANSWERED_MAX - 1
    assert not ends.sessions.wants_new(ends.curve)

    ends.sessions.seal(ends.curve, session, b"x")

    assert ends.sessions.wants_new(ends.curve)


def test_without_an_answer_the_newest_session_is_used() -> None:
    ends = Ends()
    ids = [ends.start() for _ in range(3)]

    best = ends.sessions.best(ends.curve)

    assert best is not None
    assert best.olm.session_id == ids[-1]


def test_records_bring_back_sessions_and_what_was_forgotten() -> None:
    ends = Ends()
    ids = [ends.start() for _ in range(5)]
    records = {key: ends.sessions.record(key) for key in ends.sessions.changed}

    again = Sessions(ends.clock, lambda n: bytes(n))
    for key, record in records.items():
        if record is not None:
            again.load(key, record)

    assert [key for key, record in records.items() if record is None] != []
    best = again.best(ends.curve)
    assert best is not None
    assert best.olm.session_id == ids[-1]
    assert again._retired == {ends.curve: [ids[0]]}


def test_a_bounded_number_of_opened_ciphertexts_is_remembered() -> None:
    ends = Ends()
    ends.start()
    session = ends.sessions.best(ends.curve)
    assert session is not None
    marks = [mark_of(session.olm.encrypt(b"%d" % n)) for n in range(OPENED_REMEMBERED + 1)]
    for mark in marks:
        session.note_opened(mark)

    assert not session.has_opened(marks[0])
    assert all(session.has_opened(mark) for mark in marks[1:])
