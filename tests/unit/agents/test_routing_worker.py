import asyncio
import threading

import numpy as np
import pytest

from angarium.agents.routing.worker import EmbedWorker
from angarium.errors import Busy, Misconfigured
from angarium.limits import EMBED_BATCH_MAX


class Letters:
    """A model of the test: counts letters."""

    dim, unlike = 26, 0.0

    def __init__(self):
        self.batches, self.threads = [], set()

    def embed(self, texts):
        self.batches.append(list(texts))
        self.threads.add(threading.get_ident())
        rows = np.array([[text.count(chr(97 + n)) + 0.01 for n in range(26)] for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_model_works_in_one_thread_that_is_not_the_loops():
    async def scenario():
        model = Letters()
        worker = EmbedWorker("letters", lambda: model)
        await asyncio.gather(*(worker.embed([text]) for text in "abc"))
        await worker.close()
        assert len(model.threads) == 1
        assert threading.get_ident() not in model.threads

    asyncio.run(scenario())


def test_many_texts_go_in_batches_so_that_others_get_in_between():
    async def scenario():
        model = Letters()
        worker = EmbedWorker("letters", lambda: model)
        many = asyncio.create_task(worker.embed(["a"] * (3 * EMBED_BATCH_MAX)))
        await asyncio.sleep(0)
        await worker.embed(["message"])
        assert len(await many) == 3 * EMBED_BATCH_MAX
        await worker.close()
        assert model.batches.index(["message"]) < len(model.batches) - 1
        assert max(map(len, model.batches)) == EMBED_BATCH_MAX

    asyncio.run(scenario())


def test_what_comes_when_too_much_waits_is_refused_and_later_not():
    async def scenario():
        gate = threading.Event()
        worker = EmbedWorker("letters", Letters, waiting_max=2)
        waiting = [asyncio.create_task(worker.run(lambda _: gate.wait(10))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await worker.embed(["one more"])
        gate.set()
        await asyncio.gather(*waiting)
        assert len(await worker.embed(["now"])) == 1
        await worker.close()

    asyncio.run(scenario())


def test_a_model_that_does_not_load_says_so_each_time():
    def load():
        raise Misconfigured("no model")

    async def scenario():
        worker = EmbedWorker("none", load)
        for _ in range(2):
            with pytest.raises(Misconfigured):
                await worker.embed(["text"])
        await worker.close()

    asyncio.run(scenario())
