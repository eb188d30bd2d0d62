"""Runs the black-box checks against a node, one after the other, each under a deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from lattica.errors import LatticaError
from lattica.identity import Identity

from ._checks import LINK_CHECKS, Check, check_alive
from ._checks_services import SERVICE_CHECKS
from ._outcome import Outcome, Skip, Verdict
from ._target import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.transport import Multiaddr, Transport

SUITE = "target"
DEADLINE_S = 8.0  # one check; less than handshakes may take, so that nothing passes by timing out
CHECKS: tuple[Check, ...] = (*LINK_CHECKS, *SERVICE_CHECKS)


async def check_target(
    address: Multiaddr,
    *,
    identity: Identity | None = None,
    transports: Sequence[Transport] | None = None,
    deadline_s: float = DEADLINE_S,
) -> list[Outcome]:
    """Run all checks against the node at `address`.

    Where the first one finds nobody the others are skipped: they would all say the same.

    Args:
        address: where; if it ends with `/p2p/…`, whoever answers has to be that peer.
        identity: who asks; a new one if not given.
        transports: how to get there; TCP if not given.
        deadline_s: for each check. What takes longer fails.
    """
    target = Target(address, identity or Identity.generate(), transports)
    outcomes = [await run_check(CHECKS[0], target, deadline_s=deadline_s)]
    reached = outcomes[0].verdict is Verdict.PASS
    for check in CHECKS[1:]:
        if reached:
            outcomes.append(await run_check(check, target, deadline_s=deadline_s))
        else:
            detail = "the node was not reached"
            outcomes.append(Outcome(SUITE, check.id, check.clause, Verdict.SKIP, detail))
    return outcomes


async def run_check(check: Check, target: Target, *, deadline_s: float = DEADLINE_S) -> Outcome:
    """Run one check. Raises nothing but Cancelled."""
    started = time.perf_counter()
    verdict, detail = await _judge(check, target, deadline_s)
    elapsed = time.perf_counter() - started
    return Outcome(SUITE, check.id, check.clause, verdict, detail, elapsed)


async def _judge(check: Check, target: Target, deadline_s: float) -> tuple[Verdict, str]:
    if check.speaks and not any(one.endswith(check.speaks) for one in target.protocols):
        return Verdict.SKIP, f"the node does not announce …{check.speaks}"
    try:
        with trio.fail_after(deadline_s):
            await check.run(target)
            if check.hostile:
                await check_alive(target)
    except Skip as reason:
        return Verdict.SKIP, str(reason)
    except trio.TooSlowError:
        return Verdict.FAIL, f"no answer within {deadline_s:g} s"
    except (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        return Verdict.FAIL, str(error) or type(error).__name__
    except Exception as error:  # noqa: BLE001  # what a node sends must not end the run
        return Verdict.FAIL, f"the check ended in {type(error).__name__}: {error}"
    return Verdict.PASS, ""
