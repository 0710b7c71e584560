"""What one user may hold, also when asked for at once."""

import asyncio
from typing import Any

import pytest

from angarium.bus.local import LocalBus
from angarium.errors import Refused
from angarium.ids import ConversationId, UserId, uuid7
from angarium.keys.directory import Keys
from angarium.limits import (
    BLOBS_OPEN_PER_USER_MAX,
    CONVERSATIONS_PER_USER_MAX,
    DEVICES_PER_USER_MAX,
    PARTICIPANTS_MAX,
)
from angarium.model.conversation import Participant

ADA, BOB, EVE = UserId("@ada:angarium"), UserId("@bob:angarium"), UserId("@eve:angarium")
GATEWAY = UserId("@gateway:angarium")


def id_of(number: int) -> str:
    return uuid7(1_790_000_000_000, lambda size: number.to_bytes(size, "big"))


def statuses(answers: list[Any]) -> list[tuple[int, str]]:
    told = [answer.json().get("error", {}).get("code", "") for answer in answers]
    return [(answer.status_code, code) for answer, code in zip(answers, told, strict=True)]


async def fill(api: Any, user: UserId, count: int) -> None:
    """`user` takes part in so many conversations."""
    for number in range(count):
        participants = [Participant(user, "person"), Participant(EVE, "person")]
        await api.store.conversations.create(ConversationId(id_of(number)), participants, 1)


def test_a_conversation_takes_no_more_participants_than_fit(run: Any) -> None:
    async def scenario(api: Any) -> None:
        others = [f"@u{n}:angarium" for n in range(PARTICIPANTS_MAX - 2)]
        made = await api.call("POST", "/v1/conversations", ADA, json={"participants": others})
        path = f"/v1/conversations/{made.json()['id']}/participants"
        answers = await asyncio.gather(
            *(api.call("PUT", f"{path}/@late{n}:angarium", ADA) for n in range(4))
        )
        assert sorted(statuses(answers)) == [(200, ""), *[(400, "refused")] * 3]
        kept = await api.store.conversations.find(ConversationId(made.json()["id"]))
        assert len(kept.participants) == PARTICIPANTS_MAX

    run(scenario)


def test_a_participant_that_another_node_let_in_meanwhile_counts(run: Any) -> None:
    async def scenario(api: Any) -> None:
        others = [f"@u{n}:angarium" for n in range(PARTICIPANTS_MAX - 2)]
        made = await api.call("POST", "/v1/conversations", ADA, json={"participants": others})
        c = ConversationId(made.json()["id"])
        store, add = api.store.conversations, type(api.store.conversations).add

        async def add_after_another(self: Any, id: ConversationId, one: Participant) -> Any:
            await add(self, id, Participant(BOB, "person"))
            return await add(self, id, one)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(store), "add", add_after_another)
            answer = await api.call("PUT", f"/v1/conversations/{c}/participants/{EVE}", ADA)
        assert statuses([answer]) == [(400, "refused")]
        kept = await store.find(c)
        assert len(kept.participants) == PARTICIPANTS_MAX
        assert kept.has(BOB)
        assert not kept.has(EVE)

    run(scenario)


def test_devices_that_are_added_at_once_stay_within_the_bound(run: Any) -> None:
    async def scenario(api: Any) -> None:
        for _ in range(DEVICES_PER_USER_MAX - 1):
            body = {"device_keys": api.device(ADA).device_keys()}
            await api.call("POST", "/v1/keys/upload", ADA, json=body)
        nodes = [
            Keys(directory=api.store.directory, bus=LocalBus(), clock=api.clock)
            for _ in range(2)
        ]
        devices = [api.device(ADA) for _ in nodes]
        # Both have looked before either has written.
        both, looks = asyncio.Barrier(2), []
        lists = type(api.store.directory).lists

        async def look_together(self: Any, users: Any) -> Any:
            found = await lists(self, users)
            looks.append(found)
            if len(looks) <= 2:
                async with asyncio.timeout(5):
                    await both.wait()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(api.store.directory), "lists", look_together)
            answers = await asyncio.gather(
                *(
                    node.upload(ADA, device_keys=device.device_keys())
                    for node, device in zip(nodes, devices, strict=True)
                ),
                return_exceptions=True,
            )
        assert any(isinstance(answer, Refused) for answer in answers)
        listed = (await api.store.directory.lists([ADA]))[ADA]
        assert len(listed.devices) <= DEVICES_PER_USER_MAX

    run(scenario)


@pytest.mark.slow
def test_a_person_takes_part_in_so_many_conversations_and_agents_in_more(run: Any) -> None:
    async def scenario(api: Any) -> None:
        await fill(api, ADA, CONVERSATIONS_PER_USER_MAX - 1)

        async def create(number: int, by: UserId, *users: UserId) -> Any:
            body = {"participants": users, "id": id_of(number)}
            return await api.call("POST", "/v1/conversations", by, json=body)

        both = await asyncio.gather(*(create(9000 + n, ADA, GATEWAY) for n in range(2)))
        assert sorted(statuses(both)) == [(200, ""), (400, "refused")]
        assert statuses([await create(9002, BOB, ADA)]) == [(400, "refused")]
        known = await create(0, ADA, EVE)
        assert statuses([known]) == [(200, "")]
        ours = await create(9003, BOB, GATEWAY)
        path = f"/v1/conversations/{ours.json()['id']}/participants"
        assert statuses([await api.call("PUT", f"{path}/{ADA}", BOB)]) == [(400, "refused")]
        assert len(await api.store.conversations.list_of(ADA)) == CONVERSATIONS_PER_USER_MAX

        for number in range(CONVERSATIONS_PER_USER_MAX):
            pair = [
                Participant(GATEWAY, "agent"),
                Participant(UserId(f"@p{number}:x"), "person"),
            ]
            await api.store.conversations.create(
                ConversationId(id_of(20_000 + number)), pair, 1
            )
        assert statuses([await create(9004, BOB, GATEWAY, UserId("@cy:angarium"))]) == [
            (200, "")
        ]

    run(scenario)


def test_a_user_with_too_many_unfinished_uploads_is_told(run: Any) -> None:
    async def scenario(api: Any) -> None:
        made = await api.call("POST", "/v1/conversations", ADA, json={"participants": [BOB]})

        async def begin(number: int) -> Any:
            body = {
                "id": id_of(number),
                "conversation": made.json()["id"],
                "size": 3,
                "chunks": 1,
            }
            return await api.call("POST", "/v1/blobs", ADA, json=body)

        answers = await asyncio.gather(*map(begin, range(BLOBS_OPEN_PER_USER_MAX + 2)))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert statuses(refused) == [(400, "refused")] * 2

    run(scenario)


def test_nodes_that_are_asked_at_once_begin_one_conversation_of_the_same_people(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(api: Any) -> None:
        others = [type(api)(api.store, api.clock, 10_000) for _ in range(2)]
        conversations, together = type(api.store.conversations), asyncio.Barrier(3)
        find_between = conversations.find_between

        async def find_together(self: Any, users: Any) -> Any:
            found = await find_between(self, users)
            await together.wait()  # All have looked before one creates it.
            return found

        monkeypatch.setattr(conversations, "find_between", find_together)
        body = {"participants": [BOB]}
        answers = await asyncio.gather(
            *(each.call("POST", "/v1/conversations", ADA, json=body) for each in (api, *others))
        )
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(await api.store.conversations.list_of(ADA)) == 1
        for each in others:
            await each.http.aclose()

    run(scenario)


def test_people_who_left_their_conversation_begin_another_one_on_the_same_day(
    run: Any,
) -> None:
    async def scenario(api: Any) -> None:
        seen = []
        for _ in range(3):
            body = {"participants": [BOB]}
            made = (await api.call("POST", "/v1/conversations", ADA, json=body)).json()["id"]
            seen.append(made)
            await api.call("DELETE", f"/v1/conversations/{made}/participants/{BOB}", BOB)
        assert len(set(seen)) == 3

    run(scenario)
