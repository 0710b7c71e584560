"""A client acknowledges all it was sent, and comes back soon."""

from angarium.limits import ACK_DELAY_S, CREDIT_MESSAGES, RECONNECT_MAX_S, RECONNECT_MIN_S
from angarium.model.conversation import Head
from angarium.protocol.backlog import Backlog
from angarium.protocol.client_side import ClientMachine
from angarium.protocol.effects import Effect, Transmit
from angarium.protocol.frames import Ack, Limits, Msg, SyncEnd, Welcome

WELCOME = Welcome("sid", "node", 25.0, (256, 1 << 20), Limits(1 << 18, 1 << 16, 64, 32, 8), 0)


def live(client: ClientMachine, link: int, now_s: float) -> None:
    client.opened(link, "token", now_s)
    client.received(link, [WELCOME, SyncEnd(0)], now_s)


def acks(effects: list[Effect]) -> list[tuple[str, int]]:
    return [
        acked
        for effect in effects
        if isinstance(effect, Transmit)
        for frame in effect.frames
        if isinstance(frame, Ack)
        for acked in frame.a
    ]


def test_what_was_committed_long_ago_is_acknowledged_when_it_is_sent_again() -> None:
    client = ClientMachine(device="DEVICE1", random=lambda: 0.5, cursors={"c": (1, 50)})
    client.start(0.0)
    live(client, 1, 0.0)
    # The relay follows the conversation anew (the user left and came back) from its start.
    client.received(1, [Msg("c", 1, s, f"k{s}", "@o:x", "OTHER", 0) for s in (1, 2)], 1.0)

    assert client.due_s(1.0) == 1.0 + ACK_DELAY_S
    assert acks(client.tick(1.0 + ACK_DELAY_S)) == [("c", 50)]


def test_a_log_sent_again_from_its_start_does_not_use_up_the_credit() -> None:
    total = 2 * CREDIT_MESSAGES + 10
    client = ClientMachine(device="DEVICE1", random=lambda: 0.5, cursors={"c": (1, total - 5)})
    client.start(0.0)
    live(client, 1, 0.0)
    relay, now_s, delivered = Backlog(), 1.0, total - 5
    relay.enter("c", Head(1, total), 0)
    for _ in range(10):
        sent = []
        while (wanted := relay.wanted()) is not None:
            for s in range(wanted[1], wanted[1] + wanted[2]):
                assert relay.push("c", 1, s, 10)
                sent.append(Msg("c", 1, s, f"k{s}", "@o:x", "OTHER", 0))
        effects = client.received(1, sent, now_s)
        if sent and sent[-1].s > delivered:
            delivered = sent[-1].s
            effects += client.committed("c", delivered, 5, now_s)
        now_s += ACK_DELAY_S
        for c, s in acks(effects + client.tick(now_s)):
            relay.acknowledge(c, s)
    assert delivered == total
    assert relay.unacked == (0, 0)


def test_the_first_retry_is_quick_and_only_repeated_failures_spread_it() -> None:
    """Half a second to a second after a connection that worked; then wider and wider."""
    waits: list[list[float]] = []
    for chance in (0.0, 1.0):
        client = ClientMachine(device="DEVICE1", random=lambda chance=chance: chance)
        client.start(0.0)
        live(client, 1, 0.0)
        now_s, link, found = 10.0, 1, list[float]()
        for _ in range(7):
            client.closed(link, 1006, "", now_s)
            due_s = client.due_s(now_s)
            assert due_s is not None
            found.append(due_s - now_s)
            now_s, link = due_s, link + 1
            client.tick(now_s)
        live(client, link, now_s)
        client.closed(link, 1006, "", now_s)
        due_s = client.due_s(now_s)
        assert due_s is not None
        waits.append([*found, due_s - now_s])
    quickest, slowest = waits
    assert quickest == [RECONNECT_MIN_S] * 8
    assert slowest[0] == 2 * RECONNECT_MIN_S
    assert slowest == [1.0, 2.0, 4.0, 8.0, 16.0, RECONNECT_MAX_S, RECONNECT_MAX_S, 1.0]
