"""Structured logs: one JSON object a line, redacted before anything is rendered."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

MASK = "[redacted]"
DEPTH_MAX = 6  # Deeper values are masked whole.

# Dropped by name, whatever the value: content, secrets, addresses.
_CONTENT = (
    "body",
    "text",
    "plaintext",
    "content",
    "ct",
    "ciphertext",
    "raw",
    "payload",
    "form",
)
_SECRETS = ("token", "tok", "authorization", "cookie", "secret", "password", "auth_token")
_ADDRESSES = ("phone", "number", "wa_id", "address", "from_number", "to_number")
SECRET_NAMES = frozenset((*_CONTENT, *_SECRETS, *_ADDRESSES))
_SECRET_ENDINGS = ("_token", "_secret", "_password", "_phone", "_key")
_PHONE = re.compile(
    r"(?:whatsapp:)?\+\d[\d ().-]{5,20}\d|whatsapp:\S+|(?<![\w.-])\d{10,15}(?![\w-]|\.\d)"
)
_BEARER = re.compile(r"(?i:bearer|basic)\s+[\w.~+/=-]{8,}")
_JWT = re.compile(r"eyJ[\w-]{5,}\.[\w-]+\.[\w-]*")


def mask_text(text: str) -> str:
    """`text` without phone numbers and tokens."""
    for pattern in (_BEARER, _JWT, _PHONE):
        text = pattern.sub(MASK, text)
    return text


def redact(value: Any, depth: int = 0) -> Any:
    """`value` with secret names masked and secrets inside texts masked; numbers stay."""
    if isinstance(value, str):
        return mask_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= DEPTH_MAX or isinstance(value, bytes | bytearray | memoryview):
        return MASK
    if isinstance(value, Mapping):
        return {
            mask_text(str(name)): MASK if is_secret_name(str(name)) else redact(item, depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth + 1) for item in value]
    return mask_text(str(value))


def is_secret_name(name: str) -> bool:
    lowered = name.lower().replace("-", "_")
    return lowered in SECRET_NAMES or lowered.endswith(_SECRET_ENDINGS)


def redact_event(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The processor that stands last before rendering."""
    kept = {name: event.pop(name) for name in ("timestamp", "level", "logger") if name in event}
    masked: dict[str, Any] = redact(event)
    return {**kept, **masked}


def configure_logging(
    level: str = "info", form: str = "json", stream: TextIO | None = None
) -> None:
    """Send all logs of the process, also those of libraries, to `stream` (stderr), redacted.

    The one place that touches the process-wide logging state; called once by `node.py`.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.stdlib.ExtraAdder(),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared[:-1],
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact_event,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers[:], library.propagate = [], True
    # The A2A SDK logs what callers sent, when it cannot be read or an agent fails at it.
    logging.getLogger("a2a").setLevel(logging.CRITICAL + 1)
    clients = ("httpx", "httpcore", "httpx2", "httpcore2")
    for name in (*clients, "asyncio", "picows", "uvicorn", "uvicorn.error"):
        # These write addresses and paths at `info`, which may name people.
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; keyword arguments become fields: `log.info("drained", connections=3)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
