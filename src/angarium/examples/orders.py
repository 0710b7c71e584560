"""A shop's orders: asks durably for the number, looks it up, changes a delivery day once."""

import re
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from angarium.agents.agent import Agent
from angarium.agents.contract import Skill, Turn

DEMO = (
    ("1001", "a pair of running shoes", "on its way", "Thursday"),
    ("1002", "a desk lamp", "being packed", "Friday"),
    ("1003", "three notebooks", "delivered", "Monday"),
)
DAYS = ("Friday", "Saturday", "Monday", "Keep it as it is")
NUMBER = re.compile(r"\b(\d{4})\b")
TRIES_MAX = 3


@dataclass(frozen=True, slots=True)
class Order:
    number: str
    what: str
    state: str
    day: str


class Shop:
    """A small order book in SQLite. A change of day is done once per idempotency key."""

    def __init__(self, path: str = ":memory:") -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "CREATE TABLE IF NOT EXISTS orders"
            " (number TEXT PRIMARY KEY, what TEXT, state TEXT, day TEXT);"
            "CREATE TABLE IF NOT EXISTS changes (key TEXT PRIMARY KEY, number TEXT, day TEXT);"
        )
        self._db.executemany("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?)", DEMO)

    def find(self, number: str) -> Order | None:
        row = self._db.execute("SELECT * FROM orders WHERE number = ?", (number,)).fetchone()
        return Order(*row) if row else None

    def change_day(self, key: str, number: str, day: str) -> str:
        """Deliver on `day`; the same key again changes nothing and returns the first answer."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            change = (key, number, day)
            added = self._db.execute("INSERT OR IGNORE INTO changes VALUES (?, ?, ?)", change)
            if added.rowcount:
                self._db.execute("UPDATE orders SET day = ? WHERE number = ?", (day, number))
            kept = self._db.execute("SELECT day FROM changes WHERE key = ?", (key,)).fetchone()
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return str(kept[0])

    def count_changes(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM changes").fetchone()[0])


def make_orders(shop: Shop) -> Agent:
    """The orders agent over a shop."""
    agent = Agent(
        "orders",
        "Tells where an order is and changes its delivery day (try 1001, 1002 or 1003)",
        skills=(
            Skill("track", ("where is my parcel", "where is my order", "has it shipped")),
            Skill("reschedule", ("change the delivery day", "deliver on another day")),
        ),
    )

    @agent.on_turn
    async def handle(turn: Turn) -> str:
        order = await _which(turn, shop)
        if order is None:
            return "I cannot find that order. The demo shop knows 1001, 1002 and 1003."
        status = f"Order {order.number}, {order.what}, is {order.state}"
        if order.state == "delivered":
            return f"{status} since {order.day}."
        if not re.search(r"\b(change|reschedule|another day|later|earlier)\b", turn.text, re.I):
            return f"{status}. It arrives on {order.day}. To move it, write “change the day”."
        day = await turn.ask(f"{status}. When shall it come?", DAYS, name="day")
        if day not in DAYS[:-1]:
            return f"It stays as it is: {order.day}."
        kept = await turn.tools.call(
            "change_day", "keyed", _change(shop, order.number, day), order.number, day
        )
        return f"Done. Order {order.number} now comes on {kept}."

    return agent


def _change(shop: Shop, number: str, day: str) -> Callable[[str], Awaitable[str]]:
    async def change(idempotency_key: str) -> str:
        return shop.change_day(idempotency_key, number, day)

    return change


async def _which(turn: Turn, shop: Shop) -> Order | None:
    """The order the person means: named now, else asked for, else the one spoken of before."""
    named = NUMBER.search(turn.text)
    number = named[1] if named else str(turn.memory.get("order", ""))
    order = shop.find(number) if number else None
    for attempt in range(1, TRIES_MAX + 1):
        if order is not None:
            turn.memory["order"] = order.number
            return order
        again = "" if attempt == 1 and not number else "I do not know that one. "
        reply = await turn.ask(f"{again}Which order number?", name=f"number {attempt}")
        found = NUMBER.search(reply)
        number = found[1] if found else reply
        order = shop.find(number)
    return order


orders = make_orders(Shop())
