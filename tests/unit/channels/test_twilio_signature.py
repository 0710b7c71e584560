"""Signatures: the published example, the official package, and what must not pass."""

import hashlib
import random
import string
from urllib.parse import urlencode

import httpx2
import pytest
from twilio.request_validator import RequestValidator

from angarium.channels.contract import WebhookRequest
from angarium.channels.twilio import Twilio, sign
from angarium.errors import BadSignature

FORM = "application/x-www-form-urlencoded"


class ManyValues(dict[str, list[str]]):
    """A form with repeated names, as the official package reads one."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


def channel(*tokens: str) -> Twilio:
    return Twilio(
        account_sid="AC1", auth_tokens=tokens, status_url="https://x/s",
        http=httpx2.AsyncClient(),
    )  # fmt: skip


def asked(url: str, body: bytes, signature: str, kind: str = FORM) -> WebhookRequest:
    headers = {"x-twilio-signature": signature, "content-type": kind}
    return WebhookRequest(url, "POST", headers, body)


def accepts(twilio: Twilio, request: WebhookRequest) -> bool:
    try:
        twilio.verify(request)
    except BadSignature:
        return False
    return True


def test_the_published_example_gives_the_published_signature() -> None:
    pairs = [
        ("CallSid", "CA1234567890ABCDE"), ("Caller", "+14158675309"), ("Digits", "1234"),
        ("From", "+14158675309"), ("To", "+18005551212"),
    ]  # fmt: skip
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert sign("12345", url, pairs) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


def generated(random_: random.Random) -> tuple[str, list[tuple[str, str]]]:
    letters = string.ascii_letters + string.digits + " &=+%#?/é😀\n"
    word = lambda most: "".join(random_.choices(letters, k=random_.randint(0, most)))  # noqa: E731
    names = [word(8) or "n" for _ in range(random_.randint(0, 6))]
    pairs = [(random_.choice(names), word(12)) for _ in range(len(names) * 2)] if names else []
    scheme = random_.choice(["http", "https"])
    port = random_.choice(["", "", ":443", ":80", ":8400"])
    query = random_.choice(["", "?a=1", "?delivery=5&x=%20y"])
    return f"{scheme}://chat.example.com{port}/webhooks/twilio{query}", pairs


def test_ten_thousand_generated_requests_get_the_official_packages_verdict() -> None:
    random_ = random.Random(20261124)
    token = "an auth token"
    official, ours = RequestValidator(token), channel(token)
    verdicts = {True: 0, False: 0}
    for _ in range(10_000):
        url, pairs = generated(random_)
        form = ManyValues()
        for name, value in pairs:
            form.setdefault(name, []).append(value)
        signed_url = random_.choice([url, url, generated(random_)[0]])
        signature = official.compute_signature(signed_url, form)
        if random_.random() < 0.2:
            signature = signature[:-3] + "AA="
        expected = official.validate(url, form, signature)
        assert accepts(ours, asked(url, urlencode(pairs).encode(), signature)) == expected
        verdicts[expected] += 1
    assert min(verdicts.values()) > 1000, "both verdicts must be exercised"


def test_any_altered_byte_is_refused() -> None:
    body = b"Body=hello&MessageSid=SM1&Empty="
    pairs = [("Body", "hello"), ("MessageSid", "SM1"), ("Empty", "")]
    url = "https://chat.example.com/webhooks/twilio"
    signature = sign("t", url, pairs)
    twilio = channel("t")
    assert accepts(twilio, asked(url, body, signature))
    for index in range(len(body)):
        altered = body[:index] + bytes([body[index] ^ 1]) + body[index + 1 :]
        assert not accepts(twilio, asked(url, altered, signature)), altered
    for index in range(len(signature)):
        other = "A" if signature[index] != "A" else "B"
        forged = signature[:index] + other + signature[index + 1 :]
        assert not accepts(twilio, asked(url, body, forged))
    assert not accepts(
        twilio, asked("https://evil.example.com/webhooks/twilio", body, signature)
    )
    assert not accepts(twilio, asked(url + "?delivery=1", body, signature))


@pytest.mark.parametrize("signature", ["", "x", "é", "=" * 28])
def test_a_missing_or_foreign_signature_is_refused(signature: str) -> None:
    assert not accepts(channel("t"), asked("https://a/b", b"A=1", signature))


def test_both_tokens_count_while_rotating_and_no_others() -> None:
    url, body, pairs = "https://a.example/b", b"A=1", [("A", "1")]
    twilio = channel("new", "old")
    assert accepts(twilio, asked(url, body, sign("new", url, pairs)))
    assert accepts(twilio, asked(url, body, sign("old", url, pairs)))
    assert not accepts(twilio, asked(url, body, sign("", url, pairs)))
    assert not accepts(channel("", ""), asked(url, body, sign("", url, pairs)))


def test_a_json_body_is_held_to_the_hash_that_was_signed() -> None:
    body = b'{"a": 1}'
    url = "https://a.example/b?bodySHA256=" + hashlib.sha256(body).hexdigest()
    signature = sign("t", url, [])
    twilio = channel("t")
    assert accepts(twilio, asked(url, body, signature, "application/json"))
    assert RequestValidator("t").validate(url, body.decode(), signature)
    assert not accepts(twilio, asked(url, b'{"a": 2}', signature, "application/json"))
    bare = "https://a.example/b"
    assert not accepts(twilio, asked(bare, body, sign("t", bare, []), "application/json"))


def test_a_body_that_is_no_utf8_is_refused_as_forged() -> None:
    assert not accepts(channel("t"), asked("https://a/b", b"A=\xff", "x"))


def test_the_refusal_does_not_tell_what_was_expected() -> None:
    url, body = "https://a.example/b", b"A=1"
    with pytest.raises(BadSignature) as refusal:
        channel("t").verify(asked(url, body, "wrong"))
    assert sign("t", url, [("A", "1")]) not in str(refusal.value)
