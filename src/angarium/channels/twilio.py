"""WhatsApp by Twilio: signatures, webhooks, the REST API and its errors. Decides no policy."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit, urlunsplit

import httpx2

from angarium.channels.contract import (
    Address,
    ChannelEvent,
    FinalVerdict,
    NotSent,
    Outgoing,
    Sent,
    StatusUpdate,
    WebhookRequest,
)
from angarium.channels.twilio_forms import STATUSES, parse_form, to_inbound, unsupported
from angarium.channels.whatsapp import with_options
from angarium.errors import BadSignature, Malformed, Unavailable

TEXT_CHARS_MAX = 1600
RETRY_AFTER_S_MAX = 3600.0
LIST_PAGES_MAX = 5  # Of 100 messages each; a look-up that needs more answers Unavailable.
CLOCKS_APART_S = 120  # How far the provider's clock may be behind ours.

# The one table. Not listed: `never`, so that an unknown refusal is not repeated.
_RETRY = (20429, 20500, 20503, 21611, 30001, 30008, 63012, 63018, 63019, 63023)
_TEMPLATE = (63016,)
_NEVER = (
    21211, 21408, 21610, 21614, 21617, 21620, 30007, 63003, 63005, 63021, 63024, 63030, 63032,
    63038, 63049,
)  # fmt: skip
_ALARM = (20003, 63001, 63007, 63020, 63051)
VERDICTS: dict[str, FinalVerdict] = {
    **{str(code): "retry" for code in _RETRY},
    **{str(code): "template" for code in _TEMPLATE},
    **{str(code): "never" for code in _NEVER},
    **{str(code): "alarm" for code in _ALARM},
}


def sign(token: str, url: str, pairs: Sequence[tuple[str, str]]) -> str:
    """What Twilio puts into `X-Twilio-Signature` for a form of these pairs at this URL."""
    text = url + "".join(name + value for name, value in sorted(set(pairs)))
    digest = hmac.new(token.encode(), text.encode(errors="surrogatepass"), hashlib.sha1)
    return base64.b64encode(digest.digest()).decode()


def url_forms(url: str) -> tuple[str, ...]:
    """The URL without its fragment as it stands, without its port, and with the default one:
    Twilio signs one of them."""
    parts = urlsplit(url)._replace(fragment="")
    try:
        port = parts.port
    except ValueError:
        port = None
    bare = parts.netloc.removesuffix(f":{port}") if port else parts.netloc
    default = f"{bare}:{443 if parts.scheme == 'https' else 80}"
    netlocs = (parts.netloc, bare, parts.netloc if port else default)
    forms = (url.partition("#")[0], *(urlunsplit(parts._replace(netloc=n)) for n in netlocs))
    return tuple(dict.fromkeys(forms))


class Twilio:
    """The adapter for one Twilio account.

    `auth_tokens`: the primary token first; a second one is accepted from webhooks during a
    rotation. `status_url`: where Twilio shall report what became of a message (our public
    URL of `/webhooks/twilio/status`). `http` belongs to the caller, who closes it.
    """

    name = "twilio"
    text_chars_max = TEXT_CHARS_MAX

    def __init__(
        self,
        *,
        account_sid: str,
        auth_tokens: Sequence[str],
        status_url: str,
        http: httpx2.AsyncClient,
        api_base: str = "https://api.twilio.com",
        typing_base: str = "",
        timeout_s: float = 15.0,
    ) -> None:
        self._account = account_sid
        self._tokens = tuple(token for token in auth_tokens if token)
        self._status_url = status_url
        self._http = http
        self._messages_url = f"{api_base}/2010-04-01/Accounts/{account_sid}/Messages.json"
        self._api_base = api_base
        real = (
            "https://messaging.twilio.com" if api_base == "https://api.twilio.com" else api_base
        )
        self._typing_url = f"{typing_base or real}/v2/Indicators/Typing.json"
        self._auth = httpx2.BasicAuth(account_sid, self._tokens[0] if self._tokens else "")
        self._timeout = httpx2.Timeout(timeout_s, connect=min(5.0, timeout_s))

    # --- webhooks in ---

    def verify(self, request: WebhookRequest) -> None:
        """Raises BadSignature, whatever is wrong and without saying what was expected."""
        pairs = _signed_pairs(request)
        given = request.headers.get("x-twilio-signature", "").encode()
        good = False
        for token in self._tokens:
            for url in url_forms(request.url):
                good |= hmac.compare_digest(sign(token, url, pairs).encode(), given)
        if not good:
            raise BadSignature("the webhook's signature does not match its bytes")

    def event_id(self, request: WebhookRequest) -> str:
        """`message:<sid>` or `status:<sid>:<status>`; a webhook without a sid is known by
        Twilio's idempotency token, or else by its bytes, so that none is ever turned away."""
        form = parse_form(request.body) if _is_form(request) else {}
        sid, status = form.get("MessageSid", ""), form.get("MessageStatus", "")
        if len(sid) + len(status) > 200:
            raise Malformed("the message id is too long")
        if sid and status and status not in ("received", "receiving"):
            return f"status:{sid}:{status}"
        if sid:
            return f"message:{sid}"
        token = request.headers.get("i-twilio-idempotency-token", "")[:200]
        return (
            f"token:{token}" if token else f"bytes:{hashlib.sha256(request.body).hexdigest()}"
        )

    def parse(self, url: str, body: bytes) -> Sequence[ChannelEvent]:
        """The one event of a Twilio webhook; raises nothing."""
        try:
            form = parse_form(body)
        except Malformed:
            form = {}
        if "MessageSid" not in form:
            return (unsupported(form or {"bytes": body.decode(errors="replace")}),)
        status = form.get("MessageStatus", "")
        if not status or status in ("received", "receiving"):
            return (to_inbound(form),)
        if status not in STATUSES:
            return (unsupported(form),)
        code = form.get("ErrorCode", "")
        return (
            StatusUpdate(
                form["MessageSid"],
                STATUSES[status],
                error_code=code,
                delivery=parse_qs(urlsplit(url).query).get("delivery", [""])[0],
                verdict=VERDICTS.get(code, "never"),
            ),
        )

    # --- messages out ---

    async def send(self, outgoing: Outgoing) -> Sent | NotSent:
        """Ask Twilio to send it. Once a byte may have left, any doubt is `unknown`."""
        form = {
            "To": wire_address(outgoing.to),
            "From": outgoing.sender,
            "Body": with_options(outgoing.text, outgoing.options),
            "StatusCallback": f"{self._status_url}?delivery={quote(outgoing.delivery)}",
        }
        try:
            answer = await self._http.post(
                self._messages_url, data=form, auth=self._auth, timeout=self._timeout
            )
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            return NotSent(
                "retry", type(error).__name__, "no connection to Twilio", reached=False
            )
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            return NotSent("alarm", type(error).__name__, "the API's address is wrong")
        except httpx2.HTTPError as error:
            return NotSent("unknown", type(error).__name__, "no answer after the request left")
        return read_answer(
            answer.status_code, answer.headers.get("retry-after", ""), answer.content
        )

    async def find_sent(
        self, outgoing: Outgoing, since_ms: int, exclude: Collection[str] = ()
    ) -> Sent | None:
        """Look for this text in the messages listed to this contact. Raises Unavailable."""
        since_s = since_ms // 1000 - CLOCKS_APART_S
        day = datetime.fromtimestamp(since_s, UTC).strftime("%Y-%m-%d")
        query = {"To": wire_address(outgoing.to), "DateSent>": day, "PageSize": "100"}
        url = f"{self._messages_url}?{urlencode(query)}"
        text = with_options(outgoing.text, outgoing.options)
        for _ in range(LIST_PAGES_MAX):
            page = await self._get(url)
            for message in page.get("messages", []):
                if message.get("sid") not in exclude and _is_it(message, text, since_s):
                    status = str(message.get("status", ""))
                    return Sent(str(message["sid"]), STATUSES.get(status, "accepted"))
            following = page.get("next_page_uri")
            if not following:
                return None
            url = self._api_base + str(following)
        raise Unavailable("too many messages to look through")

    async def show_typing(self, message_id: str) -> None:
        """Show "typing" for up to 25 s and mark the message as read. Best effort."""
        form = {"messageId": message_id, "channel": "whatsapp"}
        try:
            await self._http.post(
                self._typing_url, data=form, auth=self._auth, timeout=self._timeout
            )
        except (httpx2.HTTPError, httpx2.InvalidURL):
            pass  # An indicator that did not show loses nothing.

    async def _get(self, url: str) -> dict[str, Any]:
        try:
            answer = await self._http.get(url, auth=self._auth, timeout=self._timeout)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            raise Unavailable("Twilio's message list cannot be reached") from None
        if answer.status_code != 200:
            raise Unavailable(f"Twilio's message list answered {answer.status_code}")
        return _json(answer.content)


def wire_address(address: Address) -> str:
    """How Twilio writes a WhatsApp contact: by phone where it is known, else by user id."""
    return f"whatsapp:{address.phone or address.bsuid or address.parent}"


def read_answer(status: int, retry_after: str, content: bytes) -> Sent | NotSent:
    """Twilio's answer to a send, classified by the table."""
    said = _json(content)
    if status in (200, 201):
        sid = said.get("sid")
        if not isinstance(sid, str) or not sid:
            return NotSent("unknown", f"http_{status}", "the answer names no message")
        return Sent(sid, str(said.get("status", "accepted")))
    code = str(said.get("code") or f"http_{status}")
    after_ms = _retry_after_ms(retry_after)
    if status == 429:
        return NotSent("retry", code, "too many requests; it was not processed", after_ms)
    if status >= 500:
        return NotSent("unknown", code, "Twilio failed; it may have been processed", after_ms)
    if status in (401, 403) and code not in VERDICTS:
        return NotSent("alarm", code, "Twilio refuses our credentials")
    return NotSent(VERDICTS.get(code, "never"), code, f"Twilio refused with {code}", after_ms)


def _signed_pairs(request: WebhookRequest) -> list[tuple[str, str]]:
    if _is_form(request):
        try:
            return parse_qsl(
                request.body.decode(), keep_blank_values=True, errors="strict",
                max_num_fields=1000,
            )  # fmt: skip
        except ValueError:
            raise BadSignature("the webhook's body is not a form") from None
    expected = parse_qs(urlsplit(request.url).query).get("bodySHA256", [""])[0]
    if expected or request.body:
        actual = hashlib.sha256(request.body).hexdigest()
        if not hmac.compare_digest(actual.encode(), expected.encode()):
            raise BadSignature("the webhook's body is not the one that was signed")
    return []


def _is_form(request: WebhookRequest) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/x-www-form-urlencoded"


def _is_it(message: dict[str, Any], text: str, since_s: int) -> bool:
    if message.get("body") != text or message.get("direction") == "inbound":
        return False
    stamp = message.get("date_created") or message.get("date_sent") or ""
    try:
        return parsedate_to_datetime(str(stamp)).timestamp() >= since_s
    except ValueError:
        return True  # A match of unknown age: better unsent twice than sent twice.


def _json(content: bytes) -> dict[str, Any]:
    try:
        said = json.loads(content)
    except ValueError:
        return {}
    return cast(dict[str, Any], said) if isinstance(said, dict) else {}


def _retry_after_ms(value: str) -> int:
    """`Retry-After` in ms: seconds or a date; 0 when absent or unreadable."""
    try:
        seconds = float(value) if value else 0.0
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            seconds = 0.0
    return int(min(max(seconds, 0.0), RETRY_AFTER_S_MAX) * 1000)
