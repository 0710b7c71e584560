"""Keys over HTTP: two people find each other and talk end to end."""

from typing import Any

from angarium.ids import UserId
from angarium.keys.directory import KEY_ALGORITHM

ADA, BOB, GATEWAY = UserId("@ada:angarium"), UserId("@bob:angarium"), "@gateway:angarium"


def test_what_the_api_hands_out_starts_a_session(run: Any) -> None:
    async def scenario(api: Any) -> None:
        ada, bob = await api.publish(ADA), await api.publish(BOB)
        for engine in (ada, bob):
            body = {"users": [ADA, BOB]}
            found = await api.call("POST", "/v1/keys/query", engine.user, json=body)
            engine.learn(found.json())
        wanted = {"one_time_keys": {BOB: {bob.device: KEY_ALGORITHM}}}
        claimed = await api.call("POST", "/v1/keys/claim", ADA, json=wanted)
        (target,) = ada.devices([BOB])
        ada.start_sessions(claimed.json()["one_time_keys"])
        ciphertext = ada.seal(target, b"hello")

        assert bob.unseal(ADA, ada.device, ciphertext) == b"hello"
        count = await api.call("GET", f"/v1/keys/count?device={bob.device}", BOB)
        assert count.json() == {KEY_ALGORITHM: 2}

    run(scenario)


def test_replacing_an_identity_needs_the_scope(run: Any) -> None:
    async def scenario(api: Any) -> None:
        await api.publish(ADA)
        other = api.device(ADA).identity_keys()
        path = "/v1/keys/signing/upload"
        refused = await api.call("POST", path, ADA, json=other)
        allowed = await api.call("POST", path, ADA, json=other, scopes=("user", "identity"))

        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        assert allowed.status_code == 200

    run(scenario)


def test_a_person_cannot_pose_as_the_gateway(run: Any) -> None:
    async def scenario(api: Any) -> None:
        device = api.device(ADA)
        body = {"device_keys": device.device_keys(), "kind": "gateway"}
        refused = await api.call("POST", "/v1/keys/upload", ADA, json=body)
        gateway = api.device(GATEWAY)
        body = {"device_keys": gateway.device_keys(), "kind": "gateway"}
        allowed = await api.call("POST", "/v1/keys/upload", GATEWAY, json=body)

        assert refused.status_code == 403
        assert allowed.status_code == 200

    run(scenario)


def test_a_device_is_removed_over_http(run: Any) -> None:
    async def scenario(api: Any) -> None:
        ada = await api.publish(ADA)
        stranger = await api.call("DELETE", f"/v1/devices/{ada.device}", BOB)
        owner = await api.call("DELETE", f"/v1/devices/{ada.device}", ADA)
        found = await api.call("POST", "/v1/keys/query", BOB, json={"users": [ADA]})

        assert (stranger.status_code, owner.status_code) == (404, 200)
        assert not found.json()["device_keys"].get(ADA)

    run(scenario)
