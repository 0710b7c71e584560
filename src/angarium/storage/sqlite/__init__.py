"""The embedded adapter: one SQLite file, group commit, no server."""
