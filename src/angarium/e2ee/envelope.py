"""The inner envelope: what the relay may not change unnoticed. One `Chain` per conversation.

Inside every seal stand the conversation, the message's key, the sender's device, a counter of
that device in this conversation and the hash of its previous message (together with time,
stream key and body: the core), the devices it was sealed for, and what its sender has seen
last. The receiver compares all of it with what the relay says outside and with what it knows
itself.

*Device lists.* A sender names every device it sealed for by a fingerprint, all bound by one
hash. Lists change while messages travel, so the receiver does not demand its own list of
today: each named device must be one it trusts or trusted, and the receiving and sending
devices must be among them. An unknown one is RosterDiffers: fetch the lists once and accept
again; if it is raised again, the sender was shown a device that its owner did not sign.
Trusted devices that a sender left out are reported, not refused.

*Histories.* The ack is a hash over the newest messages its sender holds without a hole. A
receiver that holds the same range and gets another hash reports `history_differs`; one that
misses a message of the range says nothing, so newcomers raise no false alarm.
"""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from angarium.e2ee.body import Body, pack, unpack
from angarium.e2ee.engine import Roster, TrustedDevice
from angarium.errors import EnvelopeMismatch, Replayed, RosterDiffers, SealBroken
from angarium.ids import ConversationId, DeviceId, MessageKey, RandomBytes
from angarium.limits import (
    CHAIN_ACK_MESSAGES,
    CHAIN_GAPS_MAX,
    CHAIN_KEYS_MAX,
    CHAIN_OWN_MAX,
    CHAIN_WINDOW,
)

VERSION = 1
_FINGERPRINT_BYTES = 8
_MARK_BYTES = 16
_KEY_MARK_BYTES = 8


class Core(msgspec.Struct, array_like=True):
    """What never changes of a message, also when it is sealed again for another device list.

    `sn` counts from 1; `prev` is SHA-256 of the sender's previous core, empty for the first.
    """

    v: int
    cid: str
    mid: str
    sd: str
    sn: int
    prev: bytes
    ts_ms: int
    stream: bytes
    body: bytes


class Inner(msgspec.Struct, array_like=True):
    """What is sealed: the packed core, the devices it is for, and what its sender has seen.

    `ro` is SHA-256 over the devices; `rf` their fingerprints. `ack` is [epoch, first sequence,
    last sequence, hash of these messages]; sequence 0: nothing.
    """

    core: bytes
    ro: bytes
    rf: bytes
    ack: tuple[int, int, int, bytes]


@dataclass(frozen=True, slots=True)
class Outer:
    """What the relay says about a message."""

    conversation: ConversationId
    epoch: int
    sequence: int
    key: MessageKey
    device: DeviceId


@dataclass(frozen=True, slots=True)
class Draft:
    """A message made and not yet part of the chain. `inner` is sealed for each device."""

    key: MessageKey
    counter: int
    inner: bytes
    stream: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that agrees with its envelope.

    `gap` counts messages of its device that never came (0: none). `joined_late`: the first one
    seen of that device is not its first. `history_differs`: its sender was shown other messages
    than this device. `left_out`: trusted devices it was not sealed for.
    """

    body: Body
    ts_ms: int
    stream: bytes
    gap: int = 0
    joined_late: bool = False
    history_differs: bool = False
    left_out: tuple[DeviceId, ...] = ()


class _Device(msgspec.Struct, array_like=True):
    """Of another device: its newest counter and digest, and the counters that never came, each
    with the digest expected of it where that is known."""

    sn: int
    digest: bytes
    gaps: dict[int, bytes] = {}


class _State(msgspec.Struct, array_like=True):
    conversation: str
    device: str
    sn: int = 0
    digest: bytes = b""
    epoch: int = 0
    devices: dict[str, _Device] = {}
    keys: bytes = b""  # marks of the newest message keys, one after the other
    window: list[tuple[int, bytes]] = []  # newest sequences and marks
    own: dict[str, bytes] = {}  # own messages not yet seen in the log


_encode_state = msgspec.msgpack.Encoder().encode  # Gaps have numbers for keys: no `order`.
_decode_state = msgspec.msgpack.Decoder(_State).decode
_encode = msgspec.msgpack.Encoder().encode
_decode_core = msgspec.msgpack.Decoder(Core).decode
_decode_inner = msgspec.msgpack.Decoder(Inner).decode


class Chain:
    """One device's view of one conversation. Pure and bounded. `dump` is plain: the caller
    seals it and stores it together with the ciphertext or the message it covers."""

    def __init__(
        self,
        conversation: ConversationId,
        device: DeviceId,
        random: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._state = _State(conversation, device)
        self._random = random
        self._prints = _Prints(Roster(()))  # of the newest roster, which seldom changes

    @classmethod
    def load(cls, record: bytes, random: RandomBytes = secrets.token_bytes) -> "Chain":
        """Raises SealBroken when `record` is not from `dump`."""
        try:
            state = _decode_state(record)
        except msgspec.MsgspecError:
            raise SealBroken("the chain's record does not open") from None
        chain = cls(ConversationId(state.conversation), DeviceId(state.device), random)
        chain._state = state
        return chain

    def dump(self) -> bytes:
        """The whole state, with what is known to be missing."""
        return _encode_state(self._state)

    # --- sending ----------------------------------------------------------------------------

    def make(self, key: MessageKey, body: Body, roster: Roster, now_ms: int) -> Draft:
        """The next message of this device; nothing is changed until `commit`."""
        state = self._state
        stream = self._random(32)
        core = _encode(
            Core(
                v=VERSION,
                cid=state.conversation,
                mid=key,
                sd=state.device,
                sn=state.sn + 1,
                prev=state.digest,
                ts_ms=now_ms,
                stream=stream,
                body=pack(body),
            )
        )
        digest = hashlib.sha256(core).digest()
        return Draft(key, state.sn + 1, self._wrap(core, roster), stream, digest)

    def commit(self, draft: Draft) -> None:
        """The draft is sent for good: store `dump` in one write with its ciphertexts.

        Raises ValueError when it does not follow the newest one.
        """
        state = self._state
        if draft.counter != state.sn + 1:
            raise ValueError("another message was committed since this one was made")
        state.sn, state.digest = draft.counter, draft.digest
        state.own[draft.key] = draft.digest[:_MARK_BYTES]
        while len(state.own) > CHAIN_OWN_MAX:
            del state.own[next(iter(state.own))]

    def remake(self, inner: bytes, roster: Roster) -> bytes:
        """A committed message for another device list, after `stale_devices`. The core, and so
        the chain, stays as it is."""
        return self._wrap(_decode_inner(inner).core, roster)

    def _wrap(self, core: bytes, roster: Roster) -> bytes:
        prints = self._prints_of(roster)
        return _encode(Inner(core, prints.digest, prints.joined, self._ack()))

    # --- receiving --------------------------------------------------------------------------

    def accept(self, outer: Outer, inner: bytes, roster: Roster) -> Accepted:
        """Take in a message of another device. On any error nothing is changed.

        Raises EnvelopeMismatch, its RosterDiffers, Replayed.
        """
        try:
            sealed = _decode_inner(inner)
            core = _decode_core(sealed.core)
            body = unpack(core.body)
        except msgspec.MsgspecError:
            raise EnvelopeMismatch("what is inside the seal has another shape") from None
        self._check_facts(outer, core)
        left_out = self._check_roster(core, sealed, roster)
        digest = hashlib.sha256(sealed.core).digest()
        gap, joined_late, device = self._follow(core, digest)
        key_mark = hashlib.sha256(core.mid.encode()).digest()[:_KEY_MARK_BYTES]
        if self._knows_key(key_mark):
            raise Replayed("a message with this key was opened before")

        state = self._state
        self._turn_to(outer.epoch)
        differs = self._differs(sealed.ack)
        state.devices[core.sd] = device
        state.keys = (state.keys + key_mark)[-_KEY_MARK_BYTES * CHAIN_KEYS_MAX :]
        self._remember(outer.sequence, digest[:_MARK_BYTES])
        return Accepted(body, core.ts_ms, core.stream, gap, joined_late, differs, left_out)

    def accept_own(self, outer: Outer) -> None:
        """The log shows one of this device's own messages. Unknown ones are let pass."""
        self._turn_to(outer.epoch)
        mark = self._state.own.pop(outer.key, None)
        if mark is not None:
            self._remember(outer.sequence, mark)

    def _check_facts(self, outer: Outer, core: Core) -> None:
        inside = (core.v, core.cid, core.cid, core.mid, core.sd)
        outside = (
            VERSION,
            outer.conversation,
            self._state.conversation,
            outer.key,
            outer.device,
        )
        if inside != outside or core.sd == self._state.device or len(core.stream) != 32:
            raise EnvelopeMismatch("what is inside the seal contradicts the relay")

    def _check_roster(self, core: Core, sealed: Inner, roster: Roster) -> tuple[DeviceId, ...]:
        known = self._prints_of(roster).devices
        starts = range(0, len(sealed.rf), _FINGERPRINT_BYTES)
        named = [known.get(sealed.rf[at : at + _FINGERPRINT_BYTES]) for at in starts]
        devices = [device for device in named if device is not None]
        if len(devices) != len(named) or _roster_hash(devices) != sealed.ro:
            raise RosterDiffers("the message was sealed for a device that is not known here")
        ids = {device.id for device in devices}
        if not {core.sd, self._state.device} <= ids:
            raise EnvelopeMismatch("the message was not sealed for this device")
        return tuple(device.id for device in roster.current if device.id not in ids)

    def _prints_of(self, roster: Roster) -> "_Prints":
        if self._prints.roster != roster:
            self._prints = _Prints(roster)
        return self._prints

    def _follow(self, core: Core, digest: bytes) -> tuple[int, bool, _Device]:
        """Gap, whether joined late, and the sender's next state."""
        if (core.sn == 1) != (core.prev == b"") or core.sn < 1:
            raise EnvelopeMismatch("a first message has no predecessor, any other has")
        known = self._state.devices.get(core.sd)
        if known is None:
            return 0, core.sn > 1, _Device(core.sn, digest)
        gaps = dict(known.gaps)
        if core.sn <= known.sn:
            expected = gaps.pop(core.sn, None)
            if expected is None:
                raise Replayed("this message, or a later one of its device, was opened before")
            if expected not in (b"", digest):
                raise EnvelopeMismatch("the chain of the sending device is broken")
            return 0, False, _Device(known.sn, known.digest, gaps)
        gap = core.sn - known.sn - 1
        if gap == 0 and core.prev != known.digest:
            raise EnvelopeMismatch("the chain of the sending device is broken")
        for missing in range(max(known.sn + 1, core.sn - CHAIN_GAPS_MAX), core.sn):
            gaps[missing] = core.prev if missing == core.sn - 1 else b""
        kept = dict(list(gaps.items())[-CHAIN_GAPS_MAX:])
        return gap, False, _Device(core.sn, digest, kept)

    def _knows_key(self, mark: bytes) -> bool:
        keys = self._state.keys
        starts = range(0, len(keys), _KEY_MARK_BYTES)
        return any(keys[at : at + _KEY_MARK_BYTES] == mark for at in starts)

    # --- histories --------------------------------------------------------------------------

    def _turn_to(self, epoch: int) -> None:
        """Sequences of another epoch name other messages."""
        if epoch != self._state.epoch:
            self._state.epoch, self._state.window = epoch, []

    def _remember(self, sequence: int, mark: bytes) -> None:
        window = self._state.window
        if not window or sequence > window[-1][0]:
            self._state.window = [*window, (sequence, mark)][-CHAIN_WINDOW:]

    def _ack(self) -> tuple[int, int, int, bytes]:
        run: list[tuple[int, bytes]] = []
        for sequence, mark in reversed(self._state.window[-CHAIN_ACK_MESSAGES:]):
            if run and sequence != run[-1][0] - 1:
                break
            run.append((sequence, mark))
        if not run:
            return self._state.epoch, 0, 0, b""
        return self._state.epoch, run[-1][0], run[0][0], _history_hash(reversed(run))

    def _differs(self, ack: tuple[int, int, int, bytes]) -> bool:
        epoch, first, last, digest = ack
        if epoch != self._state.epoch or last == 0 or not 0 <= last - first < CHAIN_WINDOW:
            return False
        held = [entry for entry in self._state.window if first <= entry[0] <= last]
        return len(held) == last - first + 1 and _history_hash(held) != digest


class _Prints:
    """The fingerprints of a roster: by device, and joined for its current devices."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        everyone = (*roster.former, *roster.current)
        self.devices = {_fingerprint(device): device for device in everyone}
        self.joined = b"".join(sorted(map(_fingerprint, roster.current)))
        self.digest = _roster_hash(roster.current)


def _history_hash(entries: Iterable[tuple[int, bytes]]) -> bytes:
    digest = hashlib.sha256(b"angarium history 1")
    for sequence, mark in entries:
        digest.update(sequence.to_bytes(8, "big") + mark)
    return digest.digest()[:_MARK_BYTES]


def _fingerprint(device: TrustedDevice) -> bytes:
    return _digest_of([device])[:_FINGERPRINT_BYTES]


def _roster_hash(devices: Iterable[TrustedDevice]) -> bytes:
    return _digest_of(sorted(devices, key=lambda device: (device.user, device.id)))


def _digest_of(devices: Iterable[TrustedDevice]) -> bytes:
    named = [(device.user, device.id, device.ed25519) for device in devices]
    return hashlib.sha256(b"angarium roster 1" + _encode(named)).digest()
