"""What a turn's record holds, sealed: the message that was heard and the journal."""

from dataclasses import dataclass

import msgspec

from angarium.agents.ledger import Journal, pack_journal, unpack_journal
from angarium.agents.memory import Notebook, Notes
from angarium.agents.people import People, PersonNotes
from angarium.clock import Clock
from angarium.e2ee.body import Body, FileRef
from angarium.ids import DeviceId
from angarium.kms.contract import Sealer
from angarium.sdk.contract import Endpoint, Received
from angarium.storage.contract import Fence, Turn, Turns, Vault, Write


class Heard(msgspec.Struct, omit_defaults=True):
    """A message as it waits for its answer. `stream` opens the parts of the answer; `problem`
    says why the message itself could not be opened."""

    key: str
    sender: str
    body: Body
    stream: bytes = b""
    problem: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Heard).decode


class TurnSeals:
    """Seals and opens what turn records hold, each bound to its own turn."""

    def __init__(self, sealer: Sealer, device: DeviceId) -> None:
        self._sealer, self._device = sealer, device

    def seal_heard(self, received: Received) -> bytes:
        heard = Heard(
            received.key, received.sender, received.body, received.stream, received.problem
        )
        place = self._place(received.conversation, received.sequence, "body")
        return self._sealer.seal(_encode(heard), place)

    def open_heard(self, turn: Turn) -> Heard:
        """Raises SealBroken."""
        place = self._place(turn.conversation, turn.sequence, "body")
        return _decode(self._sealer.unseal(turn.body, place))

    def seal_journal(self, turn: Turn, journal: Journal) -> bytes:
        """Raises TooLarge."""
        place = self._place(turn.conversation, turn.sequence, "progress")
        return self._sealer.seal(pack_journal(journal), place)

    def open_journal(self, turn: Turn) -> Journal:
        """Raises SealBroken. An empty journal where none was saved."""
        if not turn.progress:
            return Journal()
        place = self._place(turn.conversation, turn.sequence, "progress")
        return unpack_journal(self._sealer.unseal(turn.progress, place))

    def _place(self, conversation: str, sequence: int, what: str) -> str:
        return f"turn/{self._device}/{conversation}/{sequence}/{what}"


@dataclass(slots=True)
class OpenTurn:
    """A turn being worked on: its record as last written, and what is sealed in it."""

    record: Turn
    heard: Heard
    journal: Journal
    notes: Notes
    person: PersonNotes
    spent: int = 0  # Since it was opened: millionths of a dollar.

    @property
    def text(self) -> str:
        """What the agent is asked."""
        first = self.heard.body.text if self.journal.text is None else self.journal.text
        return "\n".join([first, *(extra.text for extra in self.journal.joined)])

    @property
    def language(self) -> str:
        """Of the person, where it is known."""
        return self.journal.language or self.notes.route.language_of(self.heard.sender)

    @property
    def files(self) -> list[FileRef]:
        """What was sent along with it."""
        joined = (file for extra in self.journal.joined for file in extra.files)
        return [*self.heard.body.files, *joined]

    @property
    def heard_ms(self) -> int:
        """When the person last wrote to this turn."""
        return self.journal.heard_ms or self.record.created_ms

    @property
    def ref(self) -> str:
        """The key of the newest message that the reply answers."""
        return self.journal.ref or self.heard.key

    @property
    def refs(self) -> list[str]:
        """The keys of the earlier messages that it answers as well."""
        keys = [self.heard.key, *(extra.key for extra in self.journal.joined)]
        return [key for key in keys if key != self.ref]

    @property
    def stream(self) -> bytes:
        return self.journal.stream or self.heard.stream


@dataclass(frozen=True, slots=True)
class Desk:
    """What the gateway's parts work with while one fence is held.

    `journal=False` exists for one test only: the proof that exactly-once answers depend on the
    journal. Turn states and tool calls are then not saved before the reply leaves, and the
    reply's key is not tied to the turn.
    """

    endpoint: Endpoint
    vault: Vault
    turns: Turns
    notebook: Notebook
    people: People
    seals: TurnSeals
    clock: Clock
    fence: Fence
    journal: bool = True

    async def write(self, *writes: Write) -> None:
        """Raises Fenced when another gateway took over."""
        await self.vault.write(writes, self.fence)
