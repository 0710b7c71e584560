"""A phone simulator: Twilio's REST API and webhooks, and the people behind the numbers.

It speaks Twilio's wire format both ways, so that the same code runs against it and against the
real Twilio; faults are injected on request and drawn from a seed.
"""

import asyncio
import base64
import hmac
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2

from angarium.channels.twilio import TEXT_CHARS_MAX, sign
from angarium.clock import Clock, SystemClock
from angarium.errors import Unavailable
from angarium.testing.phone_api import ApiAnswer, ApiRequest, ApiServer

DEFAULT_NUMBER = "+15550001234"
PAGE_MESSAGES_MAX = 100
MESSAGES_KEPT = 5000  # Older ones are forgotten.
CALLBACKS = ("sent", "delivered", "read")


@dataclass(slots=True)
class Faults:
    """What goes wrong. `api` holds one word for each coming send: `ok`, `429`, `500`, `503`,
    `hang` (accepted, never answered), `cut` (accepted, connection closed), `lost` (closed and
    not accepted), or an error code of Twilio."""

    duplicate_share: float = 0.0
    shuffle_statuses: bool = False
    lose_statuses: bool = False
    delay_s_max: float = 0.0
    api: deque[str] = field(default_factory=deque)


@dataclass(slots=True)
class ShownMessage:
    """A message that our side sent to a simulated phone."""

    sid: str
    to: str
    sender: str
    body: str
    created_ms: int
    callback: str
    status: str = "queued"


class PhoneSimulator:
    """Simulated phones behind a simulated Twilio.

    `webhook_url` is where messages go, with Twilio's `#rc=3&rp=ct,rt,5xx` if wanted.
    `on_message`, `on_status` and `on_typing` are called as things happen on phones that are
    online. A given `http` sends the webhooks, and is closed with the simulator.
    """

    def __init__(
        self,
        *,
        webhook_url: str,
        account_sid: str,
        auth_token: str,
        our_number: str,
        api_port: int = 0,
        seed: int = 0,
        clock: Clock | None = None,
        faults: Faults | None = None,
        retry_wait_s: float = 0.2,
        http: httpx2.AsyncClient | None = None,
        on_message: Callable[[ShownMessage], None] | None = None,
        on_status: Callable[[ShownMessage], None] | None = None,
        on_typing: Callable[[str], None] | None = None,
    ) -> None:
        self.webhook_url, fragment = (*webhook_url.split("#", 1), "")[:2]
        asked = parse_qs(fragment)
        self._retries = int(asked.get("rc", ["1"])[0])
        self._retry_on = set(asked.get("rp", ["ct"])[0].split(","))
        self._account, self._token, self._our_number = account_sid, auth_token, our_number
        self._random = random.Random(seed)  # noqa: S311 - a simulation must be repeatable
        self._clock: Clock = clock or SystemClock()
        self.faults = faults or Faults()
        self._retry_wait_s = retry_wait_s
        self._on_message, self._on_status, self._on_typing = on_message, on_status, on_typing
        self._api = ApiServer(self.answer_api, api_port)
        self._http = http or httpx2.AsyncClient(
            timeout=httpx2.Timeout(15.0, connect=5.0), trust_env=False
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        self.shown: deque[ShownMessage] = deque(maxlen=MESSAGES_KEPT)
        self.typed: list[str] = []
        self.offline: set[str] = set()
        self._unseen: set[str] = set()
        self.reads_at_once = True

    @property
    def api_base(self) -> str:
        """What to set as `twilio_api_base`; known once started."""
        return f"http://127.0.0.1:{self._api.port}"

    async def start(self) -> None:
        """Serve the REST API. Raises PortInUse."""
        await self._api.start()

    async def close(self) -> None:
        await self._api.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    async def __aenter__(self) -> "PhoneSimulator":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def api_down(self) -> None:
        """From now on connections to the API are refused; `start` brings it back."""
        await self._api.close()

    # --- what people do ---

    async def say(self, text: str, number: str = DEFAULT_NUMBER, **parameters: str) -> str:
        """Write a message; returns its sid once a webhook for it was answered 2xx. Further
        webhook parameters by name. Raises Unavailable when it never was."""
        sid = "SM" + self._hex()
        form = self.form(text, number, sid=sid, **parameters)
        sends = 2 if self._random.random() < self.faults.duplicate_share else 1
        await self._delay()
        for _ in range(sends):
            await self.post(self.webhook_url, form)
        return sid

    def form(
        self, text: str, number: str = DEFAULT_NUMBER, *, sid: str = "", **parameters: str
    ) -> dict[str, str]:
        """The parameters of an inbound webhook as Twilio sends them."""
        sid = sid or "SM" + self._hex()
        form = {
            "SmsMessageSid": sid, "NumMedia": "0", "ProfileName": f"Phone {number[-4:]}",
            "MessageType": "text", "SmsSid": sid, "WaId": number.lstrip("+"),
            "SmsStatus": "received", "Body": text, "To": self._our_number, "NumSegments": "1",
            "ReferralNumMedia": "0", "MessageSid": sid, "AccountSid": self._account,
            "From": f"whatsapp:{number}", "ApiVersion": "2010-04-01",
        }  # fmt: skip
        return {**form, **parameters}

    async def next_reply(
        self, number: str = DEFAULT_NUMBER, *, after: int = 0, wait_s: float = 30.0
    ) -> ShownMessage:
        """The message number `after` (from 0) shown on this phone, waiting for it if need be.
        Raises Unavailable when none comes in time."""
        try:
            async with asyncio.timeout(wait_s):
                while len(self.on_phone(number)) <= after:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise Unavailable(f"no answer within {wait_s:g} s") from None
        return self.on_phone(number)[after]

    def on_phone(self, number: str = DEFAULT_NUMBER) -> list[ShownMessage]:
        """Everything shown on this phone, oldest first."""
        return [message for message in self.shown if message.to == f"whatsapp:{number}"]

    async def read_all(self, number: str = DEFAULT_NUMBER) -> None:
        """The person looks at the phone: what was delivered becomes read."""
        for message in self.on_phone(number):
            if message.status == "delivered":
                await self._report(message, "read")

    async def go_online(self, number: str = DEFAULT_NUMBER) -> None:
        """What waited for the phone is delivered."""
        self.offline.discard(number)
        for message in self.on_phone(number):
            if message.sid in self._unseen:
                self._unseen.discard(message.sid)
                self._show(message)
                await self._reports(message, CALLBACKS[1:])

    # --- webhooks ---

    async def post(self, url: str, form: dict[str, str], token: str = "") -> int:
        """Send a signed webhook, again where Twilio would; returns the last status. Raises
        Unavailable when it never was answered 2xx."""
        signature = sign(token or self._token, url, list(form.items()))
        headers = {
            "X-Twilio-Signature": signature,
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "TwilioProxy/1.1",
        }
        status = 0
        for attempt in range(self._retries + 1):
            if attempt:
                headers["I-Twilio-Idempotency-Token"] = sign(
                    self._token, url, [("once", signature)]
                )
                await asyncio.sleep(self._retry_wait_s * attempt)
            status, again = await self._post_once(url, urlencode(form), headers)
            if not again:
                break
        if not 200 <= status < 300:
            if not status:
                raise Unavailable(f"the webhook was answered not at all; is {url} running?")
            raise Unavailable(f"the webhook was answered {status}")
        return status

    async def _post_once(
        self, url: str, body: str, headers: dict[str, str]
    ) -> tuple[int, bool]:
        """(status, whether Twilio would try again)."""
        every = "all" in self._retry_on
        try:
            answer = await self._http.post(url, content=body, headers=headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            return 0, every or "ct" in self._retry_on
        except httpx2.HTTPError:
            return 0, every or "rt" in self._retry_on
        kind = f"{answer.status_code // 100}xx"
        return answer.status_code, kind in ("4xx", "5xx") and (every or kind in self._retry_on)

    # --- the REST API ---

    async def answer_api(self, request: ApiRequest) -> ApiAnswer:
        """One request to the REST API; also for callers without a socket."""
        if not self._knows(request.headers.get("authorization", "")):
            return _error(401, 20003, "Authenticate")
        messages = f"/2010-04-01/Accounts/{self._account}/Messages.json"
        if request.path == messages and request.method == "POST":
            return await self._create(request.form)
        if request.path == messages and request.method == "GET":
            return self._list(request.query)
        if request.path == "/v2/Indicators/Typing.json" and request.method == "POST":
            self.typed.append(request.form.get("messageId", ""))
            if self._on_typing is not None:
                self._on_typing(request.form.get("messageId", ""))
            return ApiAnswer(200, {"success": True})
        return _error(404, 20404, "The requested resource was not found")

    def _knows(self, authorization: str) -> bool:
        expected = base64.b64encode(f"{self._account}:{self._token}".encode()).decode()
        return hmac.compare_digest(authorization.encode(), f"Basic {expected}".encode())

    async def _create(self, form: dict[str, str]) -> ApiAnswer:
        fault = self.faults.api.popleft() if self.faults.api else "ok"
        refusal = _invalid(form, self._our_number)
        if refusal is not None:
            return refusal
        if fault == "lost":
            return ApiAnswer(0, silent="cut")
        if fault == "429":
            return _error(429, 20429, "Too Many Requests", {"Retry-After": "2"})
        if fault in ("500", "503"):
            return _error(int(fault), int(f"20{fault}"), "Internal Server Error")
        if fault not in ("ok", "hang", "cut"):
            return _error(400, int(fault), "refused by a fault of the simulation")
        message = ShownMessage(
            "SM" + self._hex(), form["To"], form["From"], form["Body"], self._clock.now_ms(),
            form.get("StatusCallback", ""),
        )  # fmt: skip
        self.shown.append(message)
        self._arrived.set()
        number = message.to.removeprefix("whatsapp:")
        if number in self.offline:
            self._unseen.add(message.sid)
        else:
            self._show(message)
        steps = CALLBACKS if self.reads_at_once else CALLBACKS[:2]
        self._spawn(self._reports(message, steps[:1] if number in self.offline else steps))
        return ApiAnswer(201, self._shape(message), silent="" if fault == "ok" else fault)

    def _show(self, message: ShownMessage) -> None:
        if self._on_message is not None:
            self._on_message(message)

    def _list(self, query: dict[str, str]) -> ApiAnswer:
        day = query.get("DateSent>", "")
        found = [
            self._shape(message)
            for message in reversed(self.shown)
            if query.get("To", message.to) == message.to
            and datetime.fromtimestamp(message.created_ms / 1000, UTC).strftime("%Y-%m-%d")
            >= day
        ]
        page = {"messages": found[:PAGE_MESSAGES_MAX], "page": 0, "next_page_uri": None}
        return ApiAnswer(200, page)

    def _shape(self, message: ShownMessage) -> dict[str, Any]:
        created = format_datetime(datetime.fromtimestamp(message.created_ms / 1000, UTC))
        return {
            "sid": message.sid, "account_sid": self._account, "to": message.to,
            "from": message.sender, "body": message.body, "status": message.status,
            "direction": "outbound-api", "date_created": created, "date_sent": None,
            "date_updated": created, "error_code": None, "error_message": None,
            "num_segments": "1", "num_media": "0", "api_version": "2010-04-01",
        }  # fmt: skip

    async def _reports(self, message: ShownMessage, steps: tuple[str, ...]) -> None:
        order = list(steps)
        if self.faults.shuffle_statuses:
            self._random.shuffle(order)
        for status in order:
            await self._delay()
            await self._report(message, status)

    async def _report(self, message: ShownMessage, status: str, **more: str) -> None:
        """The phone's state changes, and Twilio tells the status callback."""
        known = ("queued", *CALLBACKS)
        if status not in known or known.index(status) > known.index(message.status):
            message.status = status
        if self._on_status is not None:
            self._on_status(message)
        if not message.callback or self.faults.lose_statuses:
            return
        form = {
            "ChannelPrefix": "whatsapp", "ApiVersion": "2010-04-01", "MessageStatus": status,
            "SmsSid": message.sid, "SmsStatus": status, "To": message.to,
            "From": message.sender,
            "MessageSid": message.sid, "AccountSid": self._account,
            **({"EventType": "READ"} if status == "read" else {}), **more,
        }  # fmt: skip
        sends = 2 if self._random.random() < self.faults.duplicate_share else 1
        for _ in range(sends):
            try:
                await self.post(message.callback, form)
            except Unavailable:
                pass  # Twilio gives up as well; the next status or a look-up tells.

    async def fail(self, message: ShownMessage, code: str) -> None:
        """WhatsApp reports that this message could not be delivered."""
        await self._report(message, "undelivered", ErrorCode=code)

    async def settled(self) -> None:
        """Wait until every status callback under way has been sent."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _delay(self) -> None:
        if self.faults.delay_s_max:
            await asyncio.sleep(self._random.uniform(0, self.faults.delay_s_max))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hex(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


def _invalid(form: dict[str, str], our_number: str) -> ApiAnswer | None:
    """Twilio's own checks of a send."""
    if not form.get("To", "").startswith("whatsapp:"):
        return _error(400, 21211, "Invalid 'To' Phone Number")
    if form.get("From") != our_number:
        return _error(400, 63007, "Could not find a Channel with the specified From address")
    if not form.get("Body"):
        return _error(400, 21619, "A text message body or media urls must be specified.")
    if len(form["Body"]) > TEXT_CHARS_MAX:
        return _error(
            400, 21617, "The concatenated message body exceeds the 1600 character limit"
        )
    callback = form.get("StatusCallback", "")
    if callback and urlsplit(callback).scheme not in ("http", "https"):
        return _error(400, 21609, "Invalid 'StatusCallback' URL")
    return None


def _error(
    status: int, code: int, message: str, headers: dict[str, str] | None = None
) -> ApiAnswer:
    body = {"code": code, "message": message, "status": status,
            "more_info": f"https://www.twilio.com/docs/errors/{code}"}  # fmt: skip
    return ApiAnswer(status, body, headers or {})
