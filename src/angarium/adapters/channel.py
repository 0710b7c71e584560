"""The channel that the settings name."""

import httpx2

from angarium.channels.guarded import GuardedChannel
from angarium.channels.twilio import Twilio
from angarium.channels.twilio_account import development_twilio
from angarium.clock import Clock
from angarium.config import Settings
from angarium.errors import Misconfigured
from angarium.resilience import Breaker, BreakerPeers


def open_channel(
    settings: Settings,
    http: httpx2.AsyncClient,
    public_url: str,
    clock: Clock,
    peers: BreakerPeers | None,
) -> GuardedChannel:
    """The WhatsApp channel behind its breaker. Raises Misconfigured."""
    account, tokens, _ = twilio_account(settings)
    phone = f"http://127.0.0.1:{settings.phone_port}"
    channel = Twilio(
        account_sid=account,
        auth_tokens=tokens,
        status_url=f"{public_url}/webhooks/twilio/status",
        http=http,
        # Without an account, the phone simulator's API on this machine.
        api_base=settings.twilio_api_base if settings.twilio_account_sid else phone,
    )
    return GuardedChannel(channel, Breaker("twilio", clock, peers))


def twilio_account(settings: Settings) -> tuple[str, tuple[str, ...], str]:
    """(account, its tokens, our number). Raises Misconfigured."""
    if settings.twilio_account_sid:
        tokens = (settings.twilio_auth_token, settings.twilio_auth_token_old)
        given = tuple(token.get_secret_value() for token in tokens)
        return settings.twilio_account_sid, given, settings.twilio_sender
    if settings.environment == "production":
        raise Misconfigured("set twilio_account_sid, or serve without the bridge")
    account, token, number = development_twilio(settings.data)
    return account, (token,), number
