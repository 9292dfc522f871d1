"""What sealing costs: microseconds to seal, open and fingerprint a value, and to begin with a tenant.

python bench/sealing.py
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from ragkeep.types.v1.types_pb2 import Value
from ragkeep_gateway.sealing.sealer import Place, TenantSealer
from ragkeep_runtime.keyring import new_keyring

ROUNDS, CALLS = 15, 2000


def microseconds(work: Callable[[], object], calls: int = CALLS) -> tuple[float, float]:
    """The median of the rounds and the best of them, for one call."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        found.append((time.perf_counter() - began) / calls * 1e6)
    return statistics.median(found), min(found)


def main() -> None:
    """Prints a table."""
    keyring, salt = new_keyring("k1"), os.urandom(32)
    sealer = TenantSealer(keyring, "demo", salt)
    place = Place("staff", "D-1001", "diagnosis")
    print(f"{'value':24}{'seal':>8}{'open':>8}{'fingerprint':>13}   microseconds, median of {ROUNDS} rounds of {CALLS}")
    for name, value in (
        ("number", Value(number=52_000.0)),
        ("text of 100 characters", Value(text="x" * 100)),
        ("text of 10,000", Value(text="x" * 10_000)),
        ("text of 100,000", Value(text="x" * 100_000)),
    ):
        sealed = sealer.seal(place, value)
        calls = CALLS if len(sealed.ciphertext) < 50_000 else CALLS // 10

        def seal(value: Value = value) -> object:
            return sealer.seal(place, value)

        def opened(sealed: object = sealed) -> object:
            return sealer.open(place, sealed)  # type: ignore[arg-type]

        def fingerprint(value: Value = value) -> object:
            return sealer.fingerprint(place, value)

        costs = [microseconds(work, calls)[0] for work in (seal, opened, fingerprint)]
        print(f"{name:24}{costs[0]:8.1f}{costs[1]:8.1f}{costs[2]:13.1f}")

    def first() -> object:
        return TenantSealer(keyring, "demo", salt).seal(place, Value(number=1))

    print(f"with a tenant's key derived anew (once a request): {microseconds(first)[0]:.1f}")


if __name__ == "__main__":
    main()
