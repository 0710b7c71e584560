"""What must not leave with a reply: secrets and our own marks. Pure."""

import re

from angarium.agents.marking import clean

REDACTED = "[redacted]"
_SECRETS = (
    re.compile(
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}-----|\Z)", re.S
    ),
    re.compile(r"\bsk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{20,200}"),  # Model providers.
    re.compile(r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{30,100}|\bgithub_pat_\w{30,120}"),
    re.compile(r"\bglpat-[\w-]{20,60}|\bxox[abposr]-[\w-]{10,200}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),  # Cloud access keys.
    re.compile(r"\bAIza[\w-]{35}\b"),
    re.compile(r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,100}"),
    re.compile(r"\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,1000}"),  # Signed tokens.
    re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,100}:[^\s/@]{3,200}@"),  # In a URL.
)  # fmt: skip
_NAMED = re.compile(
    r"(?i)\b(api[ _-]?key|secret(?:[ _-]key)?|access[ _-]token|password|passwd)"
    r"(\"?\s*[:=]\s*\"?)([A-Za-z0-9+/_.~-]{12,200})"
)


def guard_reply(text: str) -> tuple[str, int]:
    """The reply without what looks like a secret and without our marks; and how many secrets
    were taken out. Plain text comes back as it is."""
    plain = clean(text)
    count = 0
    for secret in _SECRETS:
        plain, found = secret.subn(REDACTED, plain)
        count += found

    def named(match: re.Match[str]) -> str:
        nonlocal count
        value = match[3]
        if not _looks_random(value):
            return match[0]
        count += 1
        return f"{match[1]}{match[2]}{REDACTED}"

    return _NAMED.sub(named, plain), count


def _looks_random(value: str) -> bool:
    """Letters and digits mixed: a word or a placeholder is no secret."""
    return any(char.isdigit() for char in value) and any(char.isalpha() for char in value)
