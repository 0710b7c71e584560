"""One frozen `Settings`; each field's text is its documentation (`docs/reference/config.md`).

Values come from the environment (`ANGARIUM_PORT`), from `angarium.toml` in the working
directory, or from files in `/run/secrets` (Docker and Kubernetes secrets). Only `node.py` and
the command line read settings.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from angarium.errors import Malformed, Misconfigured
from angarium.ids import check_user_id
from angarium.limits import HUMAN_IDLE_S, HUMAN_WAIT_S, RATE_PER_MINUTE

PREFIX = "ANGARIUM_"
_OF_COMMANDS = {"ANGARIUM_TOKEN"}  # Read by `angarium chat`.


def _secrets_folder() -> str | None:
    folder = Path("/run/secrets")
    return str(folder) if folder.is_dir() else None


class Settings(BaseSettings):
    """Everything a node can be told."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file="angarium.toml", frozen=True, extra="forbid",
        env_ignore_empty=True, secrets_dir=_secrets_folder(),
    )  # fmt: skip

    environment: Literal["development", "production"] = Field(
        "development", description="`production` refuses development conveniences."
    )
    data: Path = Field(Path(".angarium"), description="Folder of the embedded store and keys.")
    store_url: SecretStr = Field(
        SecretStr(""),
        description="`mongodb://` URL of the store that several nodes share, the database as "
        "its path; empty: the embedded store.",
    )
    bus_url: SecretStr = Field(
        SecretStr(""),
        description="`redis://` URL (also `rediss`, `redis+sentinel`, `redis+cluster`) by "
        "which nodes on one store hear each other; empty: each asks the store.",
    )
    domain: str = Field("angarium", description="Domain part of user ids made by this system.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(
        8400, ge=0, le=65535, description="Port of the HTTP API. 0: any free one."
    )
    websocket_port: int = Field(
        8401, ge=0, le=65535, description="Port of the WebSocket endpoint. 0: any free one."
    )
    public_base_url: str = Field(
        "", description="URL the outside world calls us by; webhook signatures are over it."
    )
    relay_url: str = Field(
        "", description="HTTP URL of the relay, where messaging runs in another process."
    )
    relay_websocket_url: str = Field(
        "", description="WebSocket URL of the relay, where messaging runs in another process."
    )
    public_websocket_url: str = Field("", description="WebSocket URL told to clients.")
    token_secret: SecretStr = Field(
        SecretStr(""), description="Signs access tokens; empty: made once in the data folder."
    )
    kms_url: str = Field("", description="Key service; empty: `local://` in the data folder.")
    agents: str = Field(
        "angarium.examples",
        description="Module, Python file or TOML file whose agents the gateway runs.",
    )
    default_agent: str = Field("", description="Agent for new conversations; empty: the first.")
    drain_wait_s: float = Field(
        0.0, ge=0, le=60,
        description="How long a node that is to stop serves new clients still, while it says "
        "it is not ready; behind a load balancer as long as that takes to notice, 5 to 10.",
    )  # fmt: skip
    drain_grace_s: float = Field(
        5.0, ge=0, le=600,
        description="How long clients may take to move to another node before a stop; behind "
        "a load balancer 45 or more. The orchestrator waits 10 s more than both together.",
    )  # fmt: skip
    rate_per_minute: int = Field(
        RATE_PER_MINUTE, ge=1, description="Messages a minute per principal and per phone."
    )
    disclose_to: Literal["channels", "everybody"] = Field(
        "channels",
        description="Who is told with the first answer that an AI agent writes: people on "
        "channels, or people in the app as well.",
    )
    disclosure: str = Field(
        "", max_length=500,
        description="What they are told; empty: a sentence in the person's language.",
    )  # fmt: skip
    person_day_usd: float = Field(
        0.0, ge=0,
        description="What agents may spend for one person in a day (UTC), in dollars. 0: no "
        "cap.",
    )  # fmt: skip
    agent_day_usd: float = Field(
        0.0, ge=0,
        description="What one agent may spend in a day (UTC), in dollars. 0: no cap.",
    )  # fmt: skip
    human_wait_s: float = Field(
        HUMAN_WAIT_S, ge=0,
        description="How long a person who asks for people waits for an operator before agents "
        "answer again. 0: there are no operators.",
    )  # fmt: skip
    human_idle_s: float = Field(
        HUMAN_IDLE_S, ge=60,
        description="How long an operator who has taken a conversation over may be silent "
        "before agents answer again.",
    )  # fmt: skip
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written."
    )
    log_format: Literal["json", "console"] = Field("json", description="Shape of log lines.")
    twilio_account_sid: str = Field("", description="Twilio account (AC...).")
    twilio_auth_token: SecretStr = Field(SecretStr(""), description="Twilio's primary token.")
    twilio_auth_token_old: SecretStr = Field(
        SecretStr(""), description="Previous token, accepted while rotating."
    )
    twilio_sender: str = Field("", description="Our WhatsApp number: whatsapp:+1415...")
    twilio_api_base: str = Field("https://api.twilio.com", description="Twilio's REST API.")
    phone_port: int = Field(
        8402, ge=1, le=65535,
        description="Where the phone simulator serves its API while no Twilio account is set.",
    )  # fmt: skip

    @field_validator(
        "public_base_url", "relay_url", "relay_websocket_url", "public_websocket_url",
        "twilio_api_base",
    )  # fmt: skip
    @classmethod
    def without_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("domain")
    @classmethod
    def part_of_user_ids(cls, value: str) -> str:
        try:
            check_user_id(f"@a:{value}")
        except Malformed:
            raise ValueError("use lower-case letters, digits, dots and hyphens") from None
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, toml, file_secret_settings


def load_settings(**overrides: Any) -> Settings:
    """Settings from all sources. Raises Misconfigured, which names the setting."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise Misconfigured("wrong settings: " + "; ".join(lines)) from None


def unknown_variables(names: Iterable[str]) -> dict[str, str]:
    """Variables that look like settings and are none, with the setting that may be meant.

    They are told and not refused: orchestrators set names of this form by themselves.
    """
    known = [f"{PREFIX}{field.upper()}" for field in Settings.model_fields]
    unknown = {
        name for name in map(str.upper, names) if name.startswith(PREFIX)
    } - _OF_COMMANDS.union(known)
    return {name: "".join(get_close_matches(name, known, 1)) for name in sorted(unknown)}
