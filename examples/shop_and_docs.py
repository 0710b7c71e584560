"""The shipped agents together. Run them: ANGARIUM_AGENTS=examples/shop_and_docs.py make run"""

from angarium.examples import AGENTS

__all__ = ["AGENTS"]
