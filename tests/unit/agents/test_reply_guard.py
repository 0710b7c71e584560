"""Secrets do not leave with a reply; everything else does, unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.agents.reply_guard import REDACTED, guard_reply

A, N = "a" * 40, "A1b2C3d4E5f6G7h8I9j0"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-" + N,
        "sk-" + "proj-" + N + N,
        "ghp" + "_" + N + N,
        "AKIA" + "ABCDEFGH12345678",
        "xoxb" + "-1234567890-" + N,
        "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nnever ends",
        "eyJ" + N + ".eyJ" + N + "." + N,
        "mongodb://admin:hunter22@",
    ],
)
def test_what_looks_like_a_secret_is_redacted(secret):
    text, count = guard_reply(f"Here it is: {secret} Bye.")
    assert secret not in text
    assert (REDACTED in text, count) == (True, 1)


@pytest.mark.parametrize("name", ["password: ", "API_KEY=", 'api key = "', "secret: "])
def test_a_named_secret_keeps_its_name(name):
    text, count = guard_reply(f"{name}hunter2hunter2")
    assert (text, count) == (f"{name}{REDACTED}", 1)


@pytest.mark.parametrize(
    "text",
    [
        "Your password: must have twelve letters",
        "Order 1001 is on its way: https://shop.example/track?id=1001",
        "The key is under the mat, ask-me-anything-you-like",
        "def f():\n\treturn {'a': 1}\r\n",
        "नमस्ते 👩‍💻",
        "mailto:ada@example.com",
    ],
)
def test_everyday_replies_are_unchanged(text):
    assert guard_reply(text) == (text, 0)


def test_our_marks_do_not_leave():
    text, _ = guard_reply(
        '<untrusted-0123456789abcdef source="a">\nhi</untrusted-0123456789abcdef>'
    )
    assert text == "hi"


@given(st.text(max_size=300))
def test_guarding_twice_changes_nothing_more(text):
    once, _ = guard_reply(text)
    assert guard_reply(once) == (once, 0)
