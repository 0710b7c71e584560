"""The cluster's adapter: MongoDB as the only database, without transactions."""

from importlib.util import find_spec

from angarium.errors import Misconfigured

if find_spec("pymongo") is None:
    raise Misconfigured(
        "a MongoDB store needs the package `pymongo`: install `angarium[cluster]`, "
        "or use the embedded store"
    )
