"""The agents a fresh node runs: a guide that knows the documentation, and a shop's orders."""

from angarium.examples.docs_faq import guide
from angarium.examples.orders import orders

AGENTS = [guide, orders]
