"""The made-up account of a development folder."""

from pathlib import Path

import pytest

from angarium.channels.twilio_account import development_twilio
from angarium.errors import Misconfigured


def test_the_account_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = development_twilio(tmp_path / "new")
    assert development_twilio(tmp_path / "new") == first
    assert first[0].startswith("AC")
    assert len(first[1]) == 32
    (file,) = (tmp_path / "new").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_broken_file_is_named_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "twilio-dev.json").write_text("{")
    with pytest.raises(Misconfigured, match=r"twilio-dev\.json"):
        development_twilio(tmp_path)
    assert (tmp_path / "twilio-dev.json").read_text() == "{"
