import asyncio
import stat
from pathlib import Path

import pytest

from angarium.errors import KmsUnavailable, Misconfigured, SealBroken
from angarium.kms.local import LocalKms, open_kms

CTX = {"scope": "gateway", "device": "AGENTDEVICE1"}


def test_a_data_key_opens_again_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "kms.json"
    made = asyncio.run(LocalKms(path).generate_data_key("gateway", CTX))
    assert len(made.plaintext) == 32
    assert made.plaintext not in made.wrapped
    assert asyncio.run(LocalKms(path).unwrap(made.wrapped, "gateway", CTX)) == made.plaintext


def test_the_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "kms.json"
    asyncio.run(LocalKms(path).generate_data_key("gateway", CTX))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_file_that_others_may_read_is_refused_with_the_cure(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "kms.json"
    kms = LocalKms(path)
    asyncio.run(kms.generate_data_key("gateway", CTX))
    path.chmod(mode)
    with pytest.raises(Misconfigured, match="chmod 600"):
        asyncio.run(kms.generate_data_key("gateway", CTX))


@pytest.mark.parametrize(
    ("key_id", "ctx"),
    [
        ("gateway", {"scope": "bridge", "device": "AGENTDEVICE1"}),
        ("gateway", {"scope": "gateway"}),
        ("other", CTX),
    ],
)
def test_another_context_or_key_does_not_open(
    tmp_path: Path, key_id: str, ctx: dict[str, str]
) -> None:
    async def scenario() -> None:
        kms = LocalKms(tmp_path / "kms.json")
        await kms.generate_data_key("other", CTX)
        made = await kms.generate_data_key("gateway", CTX)
        with pytest.raises(SealBroken):
            await kms.unwrap(made.wrapped, key_id, ctx)

    asyncio.run(scenario())


def test_any_changed_byte_keeps_the_key_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        kms = LocalKms(tmp_path / "kms.json")
        made = await kms.generate_data_key("gateway", CTX)
        for place in range(len(made.wrapped)):
            changed = bytearray(made.wrapped)
            changed[place] ^= 1
            with pytest.raises(SealBroken):
                await kms.unwrap(bytes(changed), "gateway", CTX)

    asyncio.run(scenario())


@pytest.mark.parametrize("wrapped", [b"", b"\x01", b"\x01\x00\x00\x00\x01", b"\x02" * 80])
def test_bytes_that_are_no_wrapped_key_stay_closed(tmp_path: Path, wrapped: bytes) -> None:
    async def scenario() -> None:
        kms = LocalKms(tmp_path / "kms.json")
        await kms.generate_data_key("gateway", CTX)
        with pytest.raises(SealBroken):
            await kms.unwrap(wrapped, "gateway", CTX)

    asyncio.run(scenario())


def test_after_a_rotation_old_keys_open_and_rewrap_moves_them_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        kms = LocalKms(tmp_path / "kms.json")
        made = await kms.generate_data_key("gateway", CTX)
        await kms.rotate("gateway")
        assert await kms.unwrap(made.wrapped, "gateway", CTX) == made.plaintext
        moved = await kms.rewrap(made.wrapped, "gateway", CTX)
        assert moved[:5] != made.wrapped[:5]
        assert await kms.unwrap(moved, "gateway", CTX) == made.plaintext

    asyncio.run(scenario())


def test_a_destroyed_key_never_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        kms = LocalKms(tmp_path / "kms.json")
        made = await kms.generate_data_key("gateway", CTX)
        await kms.destroy("gateway")
        with pytest.raises(KmsUnavailable):
            await kms.unwrap(made.wrapped, "gateway", CTX)
        with pytest.raises(KmsUnavailable):
            await kms.generate_data_key("gateway", CTX)
        with pytest.raises(KmsUnavailable):
            await kms.rotate("gateway")

    asyncio.run(scenario())


def test_two_processes_making_keys_at_once_keep_each_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "kms.json"
        made = await asyncio.gather(
            *(LocalKms(path).generate_data_key(f"key{n % 4}", CTX) for n in range(16))
        )
        for data_key in made:
            opened = await LocalKms(path).unwrap(data_key.wrapped, data_key.key_id, CTX)
            assert opened == data_key.plaintext

    asyncio.run(scenario())


def test_a_damaged_key_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "kms.json"
    path.touch(mode=0o600)
    path.write_text("{")
    with pytest.raises(KmsUnavailable, match="damaged"):
        asyncio.run(LocalKms(path).generate_data_key("gateway", CTX))


def test_an_unusable_folder_is_kms_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KmsUnavailable):
        asyncio.run(LocalKms(tmp_path / "file" / "kms.json").generate_data_key("k", CTX))


@pytest.mark.parametrize(("url", "place"), [("", "kms.json"), ("local://", "kms.json")])
def test_the_default_key_file_lies_in_the_data_folder(
    tmp_path: Path, url: str, place: str
) -> None:
    asyncio.run(open_kms(url, tmp_path).generate_data_key("k", CTX))
    assert (tmp_path / place).exists()


def test_a_local_url_names_its_file(tmp_path: Path) -> None:
    kms = open_kms(f"local://{tmp_path}/my%20keys.json", tmp_path / "unused")
    asyncio.run(kms.generate_data_key("k", CTX))
    assert (tmp_path / "my keys.json").exists()


@pytest.mark.parametrize("url", ["vault://somewhere", "aws-kms://eu/alias", "local://relative"])
def test_other_urls_are_misconfigured_with_a_plain_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(Misconfigured, match="kms_url"):
        open_kms(url, tmp_path)
