"""A document's sealed values as both stores write them: one text."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from ragkeep_retriever.values import Sealed


def dumped(sealed: Mapping[str, Sealed]) -> str:
    """JSON: by field the key's id, nonce and ciphertext, both in base64."""
    return json.dumps({name: [one.key_id, _text(one.nonce), _text(one.ciphertext)] for name, one in sealed.items()})


def loaded(text: str) -> dict[str, Sealed]:
    """What was dumped."""
    found = json.loads(text)
    return {
        name: Sealed(key_id, base64.b64decode(nonce), base64.b64decode(rest)) for name, (key_id, nonce, rest) in found.items()
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
