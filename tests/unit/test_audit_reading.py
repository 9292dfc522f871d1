"""Which lines an auditor's filters leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_gateway.audit.reading import Wanted, past
from tests.unit.test_audit_chain import KEYS, SIGNING


@pytest.mark.parametrize("name", ["documents", "requested", "rejected"])
def test_a_document_is_found_by_every_way_that_a_line_names_it(tmp_path: Path, name: str) -> None:
    """A line where that name holds a number is passed over, though it holds the id's letters elsewhere."""
    files = AuditFiles(tmp_path, "gateway-0", KEYS.lines, SIGNING)
    files.open()
    files.append(
        [
            {"kind": "acted", "tenant": "T-1", name: 120},
            {"kind": "asked", name: ["T-0", "T-1"]},
            {"kind": "asked", name: ["T-11"]},
        ]
    )
    found = [entry.facts["seq"] for entry in past(files.folder, Wanted(document_id="T-1"), files.until)]
    files.close()
    assert found == [2], json.dumps(found)
