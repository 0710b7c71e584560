"""The HTTP API as clients and operators meet it."""

import asyncio
import json
from typing import Any

import pytest
import structlog

from angarium.agents.orders import SCOPE
from angarium.bus.contract import Joined, Left
from angarium.ids import ConversationId, DeviceId, uuid7
from angarium.limits import BLOB_CHUNK_BYTES, RATE_SLOW_S_MAX, REQUEST_BYTES_MAX
from angarium.storage.contract import AuditEntry, PutTurn, Turn, TurnState

ADA, BOB, EVE = "@ada:angarium", "@bob:angarium", "@eve:angarium"
GHOST = "@wa_0123456789abcdef:angarium"
GATEWAY = "@gateway:angarium"
ID = uuid7(1_790_000_000_000)


def code(answer: Any) -> str:
    return str(answer.json()["error"]["code"])


async def converse(api: Any, *users: str, by: str = ADA) -> str:
    answer = await api.call("POST", "/v1/conversations", by, json={"participants": users})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


# --- who is asking --------------------------------------------------------------------------


def test_every_route_of_the_api_wants_a_token(run: Any) -> None:
    async def scenario(api: Any) -> None:
        paths = api.app.openapi()["paths"]
        asked = 0
        for path, methods in paths.items():
            if not path.startswith("/v1/"):
                continue
            for method in methods:
                url = path.replace("{", "").replace("}", "")
                answer = await api.http.request(method, url, content=b"not json")
                assert (answer.status_code, code(answer)) in {(401, "bad_token")}, path
                asked += 1
        assert asked >= 20

    run(scenario)


def test_an_expired_token_says_so(run: Any) -> None:
    async def scenario(api: Any) -> None:
        token = api.tokens.mint(ADA, 60)
        api.clock.advance(61)
        headers = {"Authorization": f"Bearer {token}"}
        answer = await api.http.get("/v1/conversations", headers=headers)

        assert (answer.status_code, code(answer)) == (401, "token_expired")
        assert answer.headers["www-authenticate"] == "Bearer"

    run(scenario)


@pytest.mark.parametrize("scopes", [("admin",), ("identity",), ("admin", "identity"), ()])
def test_a_token_of_an_operator_alone_does_not_act_as_the_user(
    run: Any, scopes: tuple[str, ...]
) -> None:
    async def scenario(api: Any) -> None:
        for path in ("/v1/conversations", "/v1/keys/count?device=X", f"/v1/blobs/{'0' * 36}"):
            answer = await api.call("GET", path, scopes=scopes)
            assert (answer.status_code, code(answer)) == (403, "forbidden"), path

    run(scenario)


def test_over_the_rate_a_principal_is_refused_and_services_are_not(run: Any) -> None:
    async def scenario(api: Any) -> None:
        first = await api.call("GET", "/v1/conversations")
        second = await api.call("GET", "/v1/conversations")
        service = await api.call("GET", "/v1/conversations", scopes=("service",))

        assert first.status_code == 200
        assert api.slowed_s == [RATE_SLOW_S_MAX]
        assert (second.status_code, code(second)) == (429, "rate_limited")
        assert second.json()["error"]["after_ms"] > 0
        assert int(second.headers["retry-after"]) >= 1
        assert service.status_code == 200

    run(scenario, requests_per_minute=1)


# --- errors and headers ----------------------------------------------------------------------


def test_what_is_malformed_is_named_and_not_echoed(run: Any) -> None:
    async def scenario(api: Any) -> None:
        for body in (b"{", b'{"participants": "canary"}', b'{"participants": [7]}', b"[]"):
            answer = await api.call("POST", "/v1/conversations", content=body)
            assert (answer.status_code, code(answer)) == (400, "malformed")
            assert "canary" not in answer.text
        answer = await api.call("POST", "/v1/keys/signatures/upload", json={"canary": 1})
        assert (answer.status_code, "canary" in answer.text) == (400, False)

    run(scenario)


def test_a_page_that_does_not_exist_has_the_same_shape_of_error(run: Any) -> None:
    async def scenario(api: Any) -> None:
        missing = await api.http.get("/v1/nothing")
        wrong = await api.http.request("PATCH", "/v1/conversations")

        assert (missing.status_code, code(missing)) == (404, "not_found")
        assert (wrong.status_code, code(wrong)) == (405, "malformed")

    run(scenario)


def test_security_headers_are_on_every_answer(run: Any) -> None:
    async def scenario(api: Any) -> None:
        for path in (
            "/livez",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/nothing",
            "/v1/conversations",
        ):
            headers = (await api.http.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "max-age" in headers["strict-transport-security"]
            assert headers["permissions-policy"]
            assert headers["x-request-id"]

    run(scenario)


def test_a_request_over_the_limit_is_refused(run: Any) -> None:
    async def pieces() -> Any:
        for _ in range(3):
            yield b"x" * (REQUEST_BYTES_MAX // 2)

    async def scenario(api: Any) -> None:
        declared = await api.call(
            "POST", "/v1/conversations", content=b" " * (REQUEST_BYTES_MAX + 1)
        )
        streamed = await api.call("POST", "/v1/conversations", content=pieces())

        assert (declared.status_code, code(declared)) == (413, "too_large")
        assert (streamed.status_code, code(streamed)) == (413, "too_large")

    run(scenario)


def test_a_crash_is_an_internal_error_without_detail_and_is_logged_by_its_id(run: Any) -> None:
    async def scenario(api: Any) -> None:
        async def broken() -> None:
            raise RuntimeError("canary")

        api.app.add_api_route("/broken", broken)
        with structlog.testing.capture_logs() as logged:
            answer = await api.http.get("/broken")

        assert (answer.status_code, code(answer)) == (500, "internal")
        assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert 'angarium_http_responses_total{class="5xx"} 1' in api.metrics.render()
        (line,) = logged
        assert line["request_id"] == answer.headers["x-request-id"]
        assert (line["error"], line["path"]) == ("RuntimeError", "/broken")
        assert line["at"].startswith("test_api.py:")
        assert "canary" not in answer.text + repr(logged)

    run(scenario)


def test_discovery_needs_no_token(run: Any) -> None:
    async def scenario(api: Any) -> None:
        found = (await api.http.get("/.well-known/angarium")).json()

        assert found["websocket_url"] == "ws://localhost:8401"
        assert found["gateway"] == GATEWAY
        assert found["limits"]["blob_chunk_bytes"] == BLOB_CHUNK_BYTES

    run(scenario)


# --- conversations ---------------------------------------------------------------------------


def test_roles_follow_from_user_ids_and_everybody_is_told(run: Any) -> None:
    async def scenario(api: Any) -> None:
        answer = await api.call(
            "POST", "/v1/conversations", GHOST, json={"participants": [GATEWAY, ADA]}
        )
        roles = {each["user"]: each["role"] for each in answer.json()["participants"]}

        assert roles == {ADA: "person", GATEWAY: "agent", GHOST: "bridge"}
        await asyncio.sleep(0)
        joined = {event.user for event in api.events if isinstance(event, Joined)}
        assert joined == {ADA, GATEWAY, GHOST}

    run(scenario)


def test_nobody_but_the_bridge_brings_in_a_contact_of_a_channel(run: Any) -> None:
    """Else a person could have an agent's answers sent to somebody's phone."""

    async def scenario(api: Any) -> None:
        body = {"participants": [GATEWAY, GHOST]}
        answer = await api.call("POST", "/v1/conversations", json=body)
        path = f"/v1/conversations/{await converse(api, GATEWAY)}/participants/{GHOST}"
        added = await api.call("PUT", path)

        assert code(answer) == code(added) == "forbidden"
        own = await api.call("GET", "/v1/conversations", GHOST)
        assert own.json() == {"conversations": []}
        opened = await api.call("POST", "/v1/conversations", GHOST, json=body)
        assert opened.status_code == 200

    run(scenario)


def test_the_same_people_get_the_same_conversation(run: Any) -> None:
    async def scenario(api: Any) -> None:
        first = await converse(api, BOB)

        assert await converse(api, ADA, BOB) == first
        assert await converse(api, ADA, by=BOB) == first
        assert await converse(api, BOB, EVE) != first

    run(scenario)


def test_an_id_is_created_once_and_not_shown_to_strangers(run: Any) -> None:
    async def scenario(api: Any) -> None:
        body = {"participants": [BOB], "id": ID}
        first = await api.call("POST", "/v1/conversations", json=body)
        again = await api.call("POST", "/v1/conversations", json=body)
        stranger = await api.call("POST", "/v1/conversations", EVE, json=body)

        assert first.json() == again.json()
        assert first.json()["id"] == ID
        assert code(stranger) == "forbidden"
        assert code(await api.call("GET", f"/v1/conversations/{ID}", EVE)) == "not_found"
        assert (await api.call("GET", "/v1/conversations", EVE)).json() == {"conversations": []}
        assert (await api.call("GET", "/v1/conversations", BOB)).json() == {
            "conversations": [first.json()]
        }

    run(scenario)


def test_an_idempotency_key_gives_the_same_answer_and_no_other(run: Any) -> None:
    async def scenario(api: Any) -> None:
        async def ask(users: list[str], by: str = ADA) -> Any:
            headers = {"Idempotency-Key": "k1"}
            body = {"participants": users}
            return await api.call("POST", "/v1/conversations", by, json=body, headers=headers)

        first = await ask([BOB])

        assert (await ask([BOB])).json() == first.json()
        assert code(await ask([EVE])) == "key_reused"
        assert (await ask([ADA, EVE], by=EVE)).status_code == 200

    run(scenario)


def test_one_cannot_talk_with_nobody(run: Any) -> None:
    async def scenario(api: Any) -> None:
        answer = await api.call("POST", "/v1/conversations", json={"participants": [ADA]})
        assert code(answer) == "malformed"

    run(scenario)


def test_persons_add_and_remove_ghosts_only_leave(run: Any) -> None:
    async def scenario(api: Any) -> None:
        path = f"/v1/conversations/{await converse(api, ADA, by=GHOST)}/participants"

        refused = await api.call("PUT", f"{path}/{EVE}", GHOST)
        outsider = await api.call("PUT", f"{path}/{EVE}", EVE)
        added = await api.call("PUT", f"{path}/{EVE}")
        again = await api.call("PUT", f"{path}/{EVE}")
        not_allowed = await api.call("DELETE", f"{path}/{EVE}", GHOST)
        left = await api.call("DELETE", f"{path}/{GHOST}", GHOST)
        removed = await api.call("DELETE", f"{path}/{EVE}")

        assert code(refused) == code(not_allowed) == "forbidden"
        assert code(outsider) == "not_found"
        assert added.json() == again.json()
        assert len(added.json()["participants"]) == 3
        assert len(left.json()["participants"]) == 2
        assert [each["user"] for each in removed.json()["participants"]] == [ADA]
        await asyncio.sleep(0)
        gone = [event.user for event in api.events if isinstance(event, Left)]
        assert gone == [GHOST, EVE]

    run(scenario)


def test_receipts_are_shown_to_participants(run: Any) -> None:
    async def scenario(api: Any) -> None:
        id = await converse(api, BOB)
        await api.store.receipts.fold([(id, BOB, "delivered", 7), (id, BOB, "read", 5)])

        answer = await api.call("GET", f"/v1/conversations/{id}/receipts")
        refused = await api.call("GET", f"/v1/conversations/{id}/receipts", EVE)

        assert answer.json() == {"receipts": {BOB: {"delivered": 7, "read": 5}}}
        assert code(refused) == "not_found"

    run(scenario)


# --- attachments -----------------------------------------------------------------------------


def test_an_attachment_goes_up_and_down_in_chunks_and_can_be_resumed(run: Any) -> None:
    async def scenario(api: Any) -> None:
        conversation = await converse(api, BOB)
        chunks = [b"a" * BLOB_CHUNK_BYTES, b"b" * 10]
        size = sum(map(len, chunks))
        body = {"id": ID, "conversation": conversation, "size": size, "chunks": 2}

        opened = await api.call("POST", "/v1/blobs", json=body)
        await api.call("PUT", f"/v1/blobs/{ID}/chunks/1", content=chunks[1])
        resumed = await api.call("POST", "/v1/blobs", json=body)
        done = await api.call("PUT", f"/v1/blobs/{ID}/chunks/0", content=chunks[0])
        read = [await api.call("GET", f"/v1/blobs/{ID}/chunks/{n}", BOB) for n in (0, 1)]

        assert (opened.json()["stored"], resumed.json()["stored"]) == ([], [1])
        assert done.json()["complete"] is True
        assert [answer.content for answer in read] == chunks
        assert read[0].headers["content-type"] == "application/octet-stream"

    run(scenario)


def test_an_attachment_is_closed_to_others(run: Any) -> None:
    async def scenario(api: Any) -> None:
        conversation = await converse(api, BOB)
        body = {"id": ID, "conversation": conversation, "size": 3, "chunks": 1}
        outsider = await api.call("POST", "/v1/blobs", EVE, json=body)
        await api.call("POST", "/v1/blobs", json=body)

        path = f"/v1/blobs/{ID}"
        assert code(outsider) == "not_found"
        assert code(await api.call("GET", path, EVE)) == "not_found"
        assert code(await api.call("GET", f"{path}/chunks/0", EVE)) == "not_found"
        assert (
            code(await api.call("PUT", f"{path}/chunks/0", BOB, content=b"abc")) == "forbidden"
        )
        for index in ("9", "-1", str(10**30), "x"):
            answer = await api.call("PUT", f"{path}/chunks/{index}", content=b"abc")
            assert code(answer) == "malformed"

    run(scenario)


@pytest.mark.parametrize(
    ("size", "chunks", "expected"),
    [(10**12, 10**6, "too_large"), (10, 2, "malformed"), (0, 1, "malformed")],
)
def test_impossible_attachments_are_refused(
    run: Any, size: int, chunks: int, expected: str
) -> None:
    async def scenario(api: Any) -> None:
        conversation = await converse(api, BOB)
        body = {"id": ID, "conversation": conversation, "size": size, "chunks": chunks}
        assert code(await api.call("POST", "/v1/blobs", json=body)) == expected

    run(scenario)


# --- operators -------------------------------------------------------------------------------


def test_operators_pages_want_the_scope(run: Any) -> None:
    async def scenario(api: Any) -> None:
        for page in ("audit", "turns", "outbox", "webhooks/dead"):
            refused = await api.call("GET", f"/v1/admin/{page}")
            shown = await api.call("GET", f"/v1/admin/{page}", scopes=("user", "admin"))
            assert (refused.status_code, code(refused)) == (403, "forbidden")
            assert shown.status_code == 200

    run(scenario)


def test_operators_see_a_turn_without_content_and_order_it_replayed_or_cancelled(
    run: Any,
) -> None:
    async def scenario(api: Any) -> None:
        talk = ConversationId("01999999-0000-7000-8000-000000000001")
        states: list[tuple[TurnState, bytes]] = [
            ("failed", b"sealed"), ("failed", b""), ("running", b"sealed"), ("replied", b""),
        ]  # fmt: skip
        for sequence, (state, body) in enumerate(states, 1):
            turn = Turn(talk, sequence, DeviceId("AGENTS01"), state, body, trace=b"")
            await api.store.vault.write([PutTurn(turn)])
        path = f"/v1/admin/turns/{talk}"
        admin = {"scopes": ("user", "admin")}

        shown = await api.call("GET", f"{path}/1", **admin)
        assert shown.json()["replayable"]
        assert not {"body", "progress"} & set(shown.json())
        answers = {
            f"{sequence}/{verb}": (await api.call("POST", f"{path}/{sequence}/{verb}", **admin))
            for sequence in (1, 2, 3, 4, 5)
            for verb in ("replay", "cancel")
        }
        accepted = {name for name, answer in answers.items() if answer.status_code == 202}
        assert accepted == {"1/replay", "3/cancel"}
        assert code(answers["2/replay"]) == code(answers["4/cancel"]) == "conflict"
        assert code(answers["5/replay"]) == "not_found"
        orders = await api.store.vault.read(SCOPE)
        assert [(order.key, order.blob) for order in orders] == [
            (f"{talk}/1", b"replay"),
            (f"{talk}/3", b"cancel"),
        ]
        assert (await api.call("POST", f"{path}/1/replay")).status_code == 403
        page = await api.call("GET", "/v1/admin/audit", **admin)
        lines = {(e["action"], e["outcome"]) for e in page.json()["entries"]}
        assert lines >= {
            ("turn.replay", "done"),
            ("turn.replay", "conflict"),
            ("turn.cancel", "done"),
        }

    run(scenario)


def test_commands_and_grants_are_audited_without_ghosts_names(run: Any) -> None:
    async def scenario(api: Any) -> None:
        id = await converse(api, ADA, by=GHOST)
        await api.call("PUT", f"/v1/conversations/{id}/participants/{EVE}", GHOST)
        bob = await api.publish(BOB)
        top_up = {"device_keys": bob.device_keys(), **bob.make_prekeys(1, False)}
        await api.call("POST", "/v1/keys/upload", BOB, json=top_up)

        page = await api.call("GET", "/v1/admin/audit", scopes=("admin",))
        entries = page.json()["entries"]
        lines = {(each["action"], each["outcome"]) for each in entries}

        assert lines >= {
            ("conversation.create", "done"),
            ("participant.add", "forbidden"),
            ("identity.publish", "done"),
            ("device.publish", "done"),
            ("admin.read", "done"),
        }
        assert [each["action"] for each in entries].count("device.publish") == 1
        assert GHOST.partition(":")[0] not in json.dumps(entries)
        assert any(each["principal"].startswith("ghost:") for each in entries)

    run(scenario)


def test_the_audit_log_is_read_in_pages(run: Any) -> None:
    async def scenario(api: Any) -> None:
        for n in range(5):
            await api.store.audit.append(AuditEntry(n, "ada", "x", str(n), "done"))
        first = await api.call("GET", "/v1/admin/audit?limit=2", scopes=("admin",))
        oldest = first.json()["entries"][-1]["id"]
        rest = await api.call(
            "GET", f"/v1/admin/audit?limit=3&before={oldest}", scopes=("admin",)
        )

        assert [each["target"] for each in first.json()["entries"]] == ["audit", "4"]
        assert [each["target"] for each in rest.json()["entries"]] == ["3", "2", "1"]
        assert (
            code(await api.call("GET", "/v1/admin/audit?limit=9999", scopes=("admin",)))
            == "malformed"
        )

    run(scenario)
