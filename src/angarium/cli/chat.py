"""`angarium chat`: a terminal chat on the SDK, and one question with its answer for scripts."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from angarium.cli.terminal import Terminal
from angarium.errors import AngariumError, Unavailable
from angarium.sdk.client import Client, Conversation, TokenSource

EXIT_DONE, EXIT_FAILED, EXIT_NO_ANSWER = 0, 2, 3
QUIET_S = 1.0  # After an answer, how long a further one is waited for.


def chat(
    *,
    url: str,
    user: str,
    token: TokenSource,
    folder: Path,
    to: str = "",
    say: str | None = None,
    wait_s: float = 30.0,
) -> int:
    """Chat as `user` with `to` (default: the node's gateway); returns the exit code.

    With `say`, or when the input is no terminal (then its text is said), one message is sent,
    its answers are printed, and that is all. `folder` keeps keys and history.
    """
    text = say
    if text is None and not sys.stdin.isatty():
        text = sys.stdin.read().strip()
    try:
        client = Client(url, user=user, token=token, folder=folder)
        return asyncio.run(_run(client, to, text, wait_s))
    except AngariumError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_DONE


async def _run(client: Client, to: str, text: str | None, wait_s: float) -> int:
    async with client:
        peer = to or client.gateway
        conversation = await client.converse(peer)
        if text is not None:
            return await say_once(conversation, text, wait_s)
        await Terminal(client, conversation, peer).run()
        if client.error is not None:
            raise client.error
    return EXIT_DONE


async def say_once(
    conversation: Conversation,
    text: str,
    wait_s: float,
    write: Callable[[str], None] = print,
) -> int:
    """Send one message, write the answers to it. No answer in time is an error."""
    answers = conversation.answers()
    try:
        async with asyncio.timeout(wait_s):
            await conversation.send(text)
    except TimeoutError:
        raise Unavailable("the relay did not take the message in time") from None
    answered = False
    try:
        # The first answer may take a while; further ones (a status, a handoff) follow closely.
        while True:
            async with asyncio.timeout(QUIET_S if answered else wait_s):
                message = await anext(answers)
            if message.problem:
                print(f"{message.problem}: a message could not be opened", file=sys.stderr)
                return EXIT_FAILED
            write(message.text)
            answered = answered or message.body.type != "status"
    except (TimeoutError, StopAsyncIteration):
        pass
    finally:
        await answers.aclose()
    if not answered:
        print("no_answer: nobody answered in time", file=sys.stderr)
        return EXIT_NO_ANSWER
    return EXIT_DONE
