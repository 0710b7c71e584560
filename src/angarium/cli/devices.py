"""Linking a further device from the chat: listed, compared by a person, only then signed."""

import hmac

from rich.console import Console
from rich.markup import escape

from angarium.sdk.client import Client
from angarium.sdk.linking import UnlinkedDevice

DIGITS_MIN = 5  # Typed by the person, as the other screen shows them.


class Linking:
    """`/devices` and `/link`. While `waiting` names a device, the next line is the answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.waiting: UnlinkedDevice | None = None

    async def show(self, console: Console) -> None:
        """The user's devices that wait to be linked. Raises what the API raises."""
        found = await self._client.unlinked_devices()
        for device in found:
            console.print(f"  {escape(device.id)}  {device.fingerprint}")
        console.print(
            "On the right screen? Then /link it." if found else "No device waits to be linked."
        )

    async def begin(self, console: Console, name: str) -> None:
        """Show the fingerprint of the device and ask for its end."""
        for device in await self._client.unlinked_devices():
            if device.id == name:
                self.waiting = device
                console.print(f"[bold]{device.fingerprint}[/]")
                console.print(
                    f"Type the last {DIGITS_MIN} digits that the new device shows, or press"
                    " Enter to leave it."
                )
                return
        console.print("No device of that name waits to be linked. /devices lists them.")

    async def answer(self, console: Console, line: str) -> None:
        """Link if the digits are the end of the fingerprint; whatever was typed, the question
        is over. Raises NotFound, UnverifiedDevice, and what the API raises."""
        device, self.waiting = self.waiting, None
        if device is None:
            return
        if not is_end_of(device.fingerprint, line):
            console.print("[red]not linked[/] These are not the digits shown here.")
            return
        await self._client.link(device.id, device.fingerprint)
        console.print(f"{escape(device.id)} is linked. Start its chat again.")


def is_end_of(fingerprint: str, typed: str) -> bool:
    """Whether `typed` are at least the last five digits; spaces do not count."""
    digits, whole = "".join(typed.split()), "".join(fingerprint.split())
    enough = DIGITS_MIN <= len(digits) <= len(whole) and digits.isascii()
    return enough and hmac.compare_digest(whole[-len(digits) :], digits)
