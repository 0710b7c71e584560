"""The smallest agent. Run it: ANGARIUM_AGENTS=examples/hello.py make run"""

from angarium import Agent

hello = Agent("hello", "Says hello and counts")


@hello.on_turn
async def greet(turn):
    turn.memory["met"] = turn.memory.get("met", 0) + 1
    if turn.memory["met"] == 1:
        turn.memory["name"] = await turn.ask("Hello! What is your name?")
        return f"Nice to meet you, {turn.memory['name']}."
    return f"Hello again, {turn.memory['name']}. You wrote: {turn.text}"
