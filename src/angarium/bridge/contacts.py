"""Contacts of a channel, as sealed records: who they are, how to reach them."""

import secrets
from dataclasses import dataclass

import msgspec

from angarium.bridge.identity import contact_user, identifiers, mark
from angarium.bridge.policy import Standing
from angarium.channels.contract import Address
from angarium.errors import Conflict, Unavailable
from angarium.ids import UserId
from angarium.kms.contract import Sealer
from angarium.storage.contract import Fence, PutRecord, Vault, Write


class Card(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a contact; stored sealed only. `business` is the number of ours that the
    contact wrote to last; `before` names contacts that had one of its identifiers earlier."""

    phone: str = ""
    bsuid: str = ""
    parent: str = ""
    name: str = ""
    business: str = ""
    wrote_at_ms: int = 0
    last_message: str = ""
    opted_out: bool = False
    before: tuple[str, ...] = ()

    def address(self) -> Address:
        return Address(self.phone, self.bsuid, self.parent)

    def standing(self) -> Standing:
        return Standing(self.wrote_at_ms, self.opted_out)


@dataclass(frozen=True, slots=True)
class Contact:
    """A contact and its card as it stands."""

    user: UserId
    card: Card


_KEY_SCOPE, _KEY_NAME = "bridge-secrets", "contacts"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Card).decode


class Contacts:
    """Finds and keeps contacts. One writer per channel: the holder of the bridge's lease.

    An identifier belongs to the contact seen with it last; two contacts are never merged.
    `key` (32 secret bytes) makes the marks by which identifiers are looked up.
    """

    def __init__(
        self, *, channel: str, vault: Vault, sealer: Sealer, key: bytes, domain: str
    ) -> None:
        self._channel, self._domain = channel, domain
        self._vault, self._sealer, self._key = vault, sealer, key

    async def find(self, user: UserId) -> Card | None:
        """The card, opened. Raises SealBroken, Unavailable."""
        for record in await self._vault.read(_scope(user), "card"):
            return _decode(self._sealer.unseal(record.blob, f"{_scope(user)}/card"))
        return None

    async def keep(self, contact: Contact, fence: Fence | None = None) -> None:
        """Store the card as it is now. Raises Fenced, Unavailable."""
        await self._vault.write([self._put(contact.user, contact.card)], fence)

    async def recognise(self, address: Address, fence: Fence | None = None) -> Contact:
        """The contact with this address, made if there is none; changed identifiers are
        followed. Raises Fenced, Unavailable."""
        marks = {
            kind: mark(self._key, self._channel, kind, value)
            for kind, value in identifiers(address)
        }
        owners = {kind: await self._owner(digest) for kind, digest in marks.items()}
        user = await self._who(address, owners)
        if user is None:
            user = contact_user(next(iter(marks.values())), self._domain)
        old = await self.find(user) or Card()
        lost = sorted({owner for owner in owners.values() if owner is not None} - {user})
        card = msgspec.structs.replace(
            old,
            phone=address.phone or old.phone,
            bsuid=address.bsuid or old.bsuid,
            parent=address.parent or old.parent,
            before=tuple(dict.fromkeys((*old.before, *lost))),
        )
        writes: list[Write] = []
        if card != old:
            writes.append(self._put(user, card))
        writes += [
            self._index(digest, user) for kind, digest in marks.items() if owners[kind] != user
        ]
        writes += [await self._without(loser, address) for loser in lost]
        if writes:
            await self._vault.write(writes, fence)
        return Contact(user, card)

    async def _who(self, address: Address, owners: dict[str, UserId | None]) -> UserId | None:
        if by_id := owners.get("bsuid"):
            return by_id
        by_phone = owners.get("phone")
        if by_phone is not None:
            card = await self.find(by_phone)
            # Another person's id on a known number: the number has passed on.
            passed_on = card is not None and card.bsuid and address.bsuid
            return None if passed_on else by_phone
        alone = not address.bsuid and not address.phone
        return owners.get("parent") if alone else None

    async def _owner(self, digest: str) -> UserId | None:
        for record in await self._vault.read(self._index_scope, digest):
            place = f"{self._index_scope}/{digest}"
            return UserId(self._sealer.unseal(record.blob, place).decode())
        return None

    async def _without(self, user: UserId, address: Address) -> PutRecord:
        """The card of a contact whose identifier now reaches somebody else."""
        card = await self.find(user) or Card()
        return self._put(
            user,
            msgspec.structs.replace(
                card,
                phone="" if card.phone == address.phone else card.phone,
                bsuid="" if card.bsuid == address.bsuid else card.bsuid,
                parent="" if card.parent == address.parent else card.parent,
            ),
        )

    @property
    def _index_scope(self) -> str:
        return f"contacts/{self._channel}"

    def _put(self, user: UserId, card: Card) -> PutRecord:
        sealed = self._sealer.seal(_encode(card), f"{_scope(user)}/card")
        return PutRecord(_scope(user), "card", sealed)

    def _index(self, digest: str, user: UserId) -> PutRecord:
        place = f"{self._index_scope}/{digest}"
        return PutRecord(self._index_scope, digest, self._sealer.seal(user.encode(), place))


def _scope(user: UserId) -> str:
    return f"contact/{user}"


async def mark_key(vault: Vault, sealer: Sealer) -> bytes:
    """The secret by which identifiers are marked, made at first use and kept sealed.

    A secret of its own: tokens' secret may be rotated, this one must not, or no contact would
    be recognised any more. Raises SealBroken, Unavailable.
    """
    place = f"{_KEY_SCOPE}/{_KEY_NAME}"
    for _ in range(3):
        for record in await vault.read(_KEY_SCOPE, _KEY_NAME):
            return sealer.unseal(record.blob, place)
        sealed = sealer.seal(secrets.token_bytes(32), place)
        try:
            await vault.write([PutRecord(_KEY_SCOPE, _KEY_NAME, sealed, expect_rev=0)])
        except Conflict:
            continue  # Another process was first; its secret counts.
    raise Unavailable("the contacts' secret keeps changing")
