"""The child process that serves one model file on loopback: `python -m` this, with its path.

It reads its key, and the name of the model, as the first two lines of its input; it writes its
address, and ends when its input does, so that it never outlives who started it.
"""

import sys

CONTEXT_TOKENS = 4096


def serve(path: str) -> None:
    """Until the input ends. Raises ImportError without the package of `angarium[local]`."""
    import xllamacpp  # type: ignore[import-untyped]

    key, name = (sys.stdin.readline().strip() for _ in range(2))
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = path, {name}
    params.n_ctx, params.n_parallel = CONTEXT_TOKENS, 1
    params.hostnames, params.api_keys = ["127.0.0.1"], [key]
    params.ui = params.endpoint_slots = False
    # More threads spin for each other: on a busy machine they make it ten times slower.
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads, cpu.poll = 1, 0
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1])
