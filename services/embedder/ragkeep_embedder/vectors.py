"""What every engine's vectors must be: as many as texts, of one dimension, finite, of unit length."""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Sequence

from ragkeep_runtime.errors import EngineFailed


def checked(vectors: Sequence[Sequence[float]], count: int, dimension: int, engine: str) -> list[list[float]]:
    """The vectors at unit length. Raises EngineFailed where they are not what was asked for.

    `dimension` 0 takes whatever the first one has.
    """
    if len(vectors) != count:
        raise EngineFailed(f"{engine} returned {len(vectors)} vectors for {count} texts.")
    wanted = dimension or len(vectors[0])
    found = []
    for vector in vectors:
        if len(vector) != wanted or not wanted:
            raise EngineFailed(f"{engine} returned a vector of {len(vector)} dimensions where {wanted} were expected.")
        length = math.sqrt(math.fsum(x * x for x in vector))
        if not math.isfinite(length) or length == 0:
            raise EngineFailed(f"{engine} returned a vector that is not finite, or zero.")
        found.append([x / length for x in vector])
    return found


def packed(vectors: Sequence[Sequence[float]]) -> bytes:
    """Little-endian float32, row after row."""
    values = array.array("f", (x for vector in vectors for x in vector))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
