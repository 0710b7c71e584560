"""Row 19: a device as version 1 kept it, under its keys, is taken up by this version.

So a gateway or a bridge of one version goes on where one of another stopped.
Made for this test; `RECORD=1` writes it when there is none.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from tests.unit.e2ee.conftest import Installation, KeyDirectory

from angarium.clock import ManualClock
from angarium.e2ee.olm import OlmEngine
from angarium.kms.local import LocalKms
from angarium.kms.sealer import open_sealer

PATH = Path(__file__).parents[2] / "fixtures" / "version-1" / "device.json"
SCOPE = "gateway"


async def make(
    folder: Path, directory: KeyDirectory, ada: Installation, bob: Installation
) -> dict[str, Any]:
    """Bob has read one message of Ada's and answered; a second one is on its way to him."""
    read = directory.seal(ada, bob, b"read by version 1")
    directory.unseal(bob, ada, read)
    directory.unseal(ada, bob, directory.seal(bob, ada, b"answered by version 1"))
    waiting = directory.seal(ada, bob, b"on its way")
    sealer, wrapped = await open_sealer(LocalKms(folder / "kms.json"), "angarium", SCOPE, None)
    return {
        "kms": (folder / "kms.json").read_text(),
        "wrapped": wrapped.hex(),
        "records": {key: sealer.seal(each, key).hex() for key, each in bob.records.items()},
        "lists": directory.lists(),
        "waiting": waiting.hex(),
    }


def test_a_device_of_version_1_opens_what_was_on_its_way_to_it(
    tmp_path: Path, directory: KeyDirectory, ada: Installation, bob: Installation
) -> None:
    async def scenario() -> bytes:
        if os.environ.get("RECORD") and not PATH.exists():
            made = await make(tmp_path, directory, ada, bob)
            PATH.write_text(json.dumps(made, indent=1) + "\n")
        kept = json.loads(PATH.read_text())
        keys = tmp_path / "kms-of-version-1.json"
        keys.touch(mode=0o600)
        keys.write_text(kept["kms"])
        wrapped = bytes.fromhex(kept["wrapped"])
        sealer, unchanged = await open_sealer(LocalKms(keys), "angarium", SCOPE, wrapped)
        assert unchanged == wrapped
        records = {
            key: sealer.unseal(bytes.fromhex(blob), key)
            for key, blob in kept["records"].items()
        }
        engine = OlmEngine.load(bob.user, bob.id, records, clock=ManualClock())
        engine.learn(kept["lists"])
        return engine.unseal(ada.user, ada.id, bytes.fromhex(kept["waiting"]))

    assert asyncio.run(scenario()) == b"on its way"
