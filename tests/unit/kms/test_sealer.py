import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.errors import SealBroken
from angarium.kms.local import LocalKms
from angarium.kms.sealer import DataKeySealer, open_sealer


@given(st.binary(max_size=300), st.text(max_size=40))
def test_what_is_sealed_opens_at_its_place(plaintext: bytes, place: str) -> None:
    sealer = DataKeySealer(b"k" * 32)
    assert sealer.unseal(sealer.seal(plaintext, place), place) == plaintext


def test_a_record_does_not_open_at_another_place() -> None:
    sealer = DataKeySealer(b"k" * 32)
    with pytest.raises(SealBroken):
        sealer.unseal(sealer.seal(b"secret", "records/a"), "records/b")


def test_a_record_does_not_open_under_another_key() -> None:
    blob = DataKeySealer(b"k" * 32).seal(b"secret", "records/a")
    with pytest.raises(SealBroken):
        DataKeySealer(b"l" * 32).unseal(blob, "records/a")


def test_any_changed_or_missing_byte_breaks_the_seal() -> None:
    sealer = DataKeySealer(b"k" * 32)
    blob = sealer.seal(b"secret", "p")
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1
        with pytest.raises(SealBroken):
            sealer.unseal(bytes(changed), "p")
        with pytest.raises(SealBroken):
            sealer.unseal(blob[:place], "p")


def test_the_same_plaintext_never_gives_the_same_bytes() -> None:
    sealer = DataKeySealer(b"k" * 32)
    blobs = {sealer.seal(b"secret", "p") for _ in range(64)}
    assert len(blobs) == 64
    assert not any(b"secret" in blob for blob in blobs)


def test_the_nonce_comes_from_the_source_given() -> None:
    asked: list[int] = []

    def source(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    DataKeySealer(b"k" * 32, source).seal(b"", "p")
    assert asked == [12]


def test_a_stored_data_key_opens_earlier_records(tmp_path: Path) -> None:
    async def scenario() -> None:
        kms = LocalKms(tmp_path / "kms.json")
        first, wrapped = await open_sealer(kms, "gateway", "AGENTDEVICE1", None)
        again, same = await open_sealer(kms, "gateway", "AGENTDEVICE1", wrapped)
        assert same == wrapped
        assert again.unseal(first.seal(b"state", "p"), "p") == b"state"

    asyncio.run(scenario())


def test_a_data_key_of_another_scope_does_not_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        kms = LocalKms(tmp_path / "kms.json")
        _, wrapped = await open_sealer(kms, "gateway", "AGENTDEVICE1", None)
        with pytest.raises(SealBroken):
            await open_sealer(kms, "gateway", "AGENTDEVICE2", wrapped)

    asyncio.run(scenario())
