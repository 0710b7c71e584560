"""The gate: what may leave, what must wait, what must not."""

from angarium.bridge.policy import Allowed, Denied, NotYet, Policy, Standing
from angarium.limits import REPLY_WINDOW_S

HOUR_MS = 3_600_000
WINDOW_MS = REPLY_WINDOW_S * 1000


def judge(
    policy: Policy, standing: Standing, now_ms: int = 0, at_s: float = 0.0,
    contact: str = "c", notice: bool = False,
) -> Allowed | NotYet | Denied:  # fmt: skip
    return policy.judge(
        standing, sender="s", contact=contact, now_ms=now_ms, monotonic_s=at_s, notice=notice
    )


def test_the_window_closes_24_hours_after_the_contact_wrote() -> None:
    wrote = Standing(wrote_at_ms=1)
    assert judge(Policy(), wrote, WINDOW_MS) == Allowed()
    assert judge(Policy(), wrote, WINDOW_MS + 1) == Denied("window_closed")
    assert judge(Policy(), wrote, WINDOW_MS + 1, notice=True) == Denied("window_closed")


def test_who_opted_out_gets_only_the_confirmation() -> None:
    out = Standing(wrote_at_ms=0, opted_out=True)
    assert judge(Policy(), out) == Denied("opted_out")
    assert judge(Policy(), out, notice=True) == Allowed()


def test_a_pair_has_a_burst_of_45_and_then_one_in_six_seconds() -> None:
    policy, standing = Policy(), Standing()
    assert all(judge(policy, standing) == Allowed() for _ in range(45))
    late = judge(policy, standing)
    assert late == NotYet(6001, "pair_rate")
    assert judge(policy, standing, at_s=5.9) != Allowed()
    assert judge(policy, standing, at_s=6.001) == Allowed()
    assert judge(policy, standing, at_s=6.001) != Allowed()
    assert judge(policy, standing, at_s=6.001, contact="other") == Allowed()


def test_a_sender_has_80_a_second_over_all_contacts() -> None:
    policy, standing = Policy(), Standing()
    allowed = [judge(policy, standing, contact=str(n)) for n in range(81)]
    assert allowed[:80] == [Allowed()] * 80
    assert allowed[80] == NotYet(13, "sender_rate")
    assert judge(policy, standing, at_s=0.013, contact="80") == Allowed()


def test_what_has_to_wait_costs_nothing() -> None:
    policy, standing = Policy(sender_per_s=1.0, pair_burst=5), Standing()
    assert judge(policy, standing) == Allowed()
    for _ in range(9):
        assert isinstance(judge(policy, standing), NotYet)
    assert judge(policy, standing, at_s=1.0) == Allowed()
