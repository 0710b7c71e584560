"""The agents a fresh node runs: a guide that knows the documentation, and a shop's orders."""

from angarium.agents.declared import Routing
from angarium.examples.docs_faq import guide
from angarium.examples.orders import orders

AGENTS = [guide, orders]
ROUTING = Routing(embedder="none")  # Two are found by their names: no model, a light start.
