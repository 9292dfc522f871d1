"""`ragkeep token`, and the commands that act for its person."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import SAMPLE, Command, running
from tests.tokens import Issuer

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]


@pytest.fixture(scope="module")
def ragkeep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """With the sample in it."""
    with running(tmp_path_factory.mktemp("token")) as found:
        yield found


@pytest.fixture
def acting(ragkeep: Command, tmp_path: Path) -> Iterator[Path]:
    """The file that the commands take the token from."""
    file = tmp_path / "token.jwt"
    ragkeep.env["RAGKEEP_TOKEN_FILE"] = str(file)
    yield file
    del ragkeep.env["RAGKEEP_TOKEN_FILE"]


def test_a_person_searches_and_does_not_import(ragkeep: Command, acting: Path) -> None:
    """A reader of the tenant that the sample is in; the command's own rights do not count."""
    acting.write_text(ragkeep("token", "li.wei").stdout)
    assert json.loads(ragkeep("search", "printer", "--json").stdout.splitlines()[0])
    refused = ragkeep("import", str(SAMPLE), "--json", code=1)
    assert "NOT_ALLOWED" in refused.stdout
    assert "editor" in refused.stdout


def test_the_tenant_is_the_persons(ragkeep: Command, acting: Path) -> None:
    """Whatever --tenant says."""
    counts = []
    for tenant in ("demo", "other"):
        acting.write_text(ragkeep("token", "li.wei", "--tenant", tenant).stdout)
        counts.append(sum("document" in one for one in ragkeep.lines("documents", "list", "--tenant", "demo")))
    assert counts[0] > 0
    assert counts[1] == 0


def test_a_person_sees_the_documents_of_their_groups(ragkeep: Command, acting: Path, tmp_path: Path) -> None:
    """What a file's column of groups says holds for lists, searches, exports, imports and deletions."""
    file = tmp_path / "rooms.csv"
    rows = ("R-1,Open room,", "R-2,Payroll room,hr", "R-3,Server room,it; ops")
    header = "ticket_id,title,description,solution,category,visible_to\n"
    file.write_text(header + "".join(f"{row.rsplit(',', 1)[0]},room,room,rooms,{row.rsplit(',', 1)[1]}\n" for row in rows))
    wanted = ("import", str(file), "--groups-column", "Visible_To", "--tenant", "rooms")
    del ragkeep.env["RAGKEEP_TOKEN_FILE"]
    assert ragkeep.lines(*wanted)[-1]["imported"]["with_groups"] == 2  # type: ignore[index]
    exported = ragkeep("export", "service-tickets", "--tenant", "rooms").stdout
    assert [json.loads(line)["groups"] for line in exported.splitlines()] == [[], ["hr"], ["it", "ops"]]

    ragkeep.env["RAGKEEP_TOKEN_FILE"] = str(acting)
    who = ("wang", "--tenant", "rooms", "--group", "hr", "--group", "*", "--role", "reader", "--role", "editor")
    acting.write_text(ragkeep("token", *who).stdout)
    listed = [line["document"]["id"] for line in ragkeep.lines("documents", "list") if "document" in line]  # type: ignore[index]
    assert listed == ["R-1", "R-2"]
    sources = [line["source"] for line in ragkeep.lines("search", "server room") if "source" in line]
    assert {source["document_id"] for source in sources} == {"R-1", "R-2"}  # type: ignore[index]
    assert {source["scores"]["bm25"] for source in sources} == {None}  # type: ignore[index]
    assert "DOCUMENT_UNKNOWN" in ragkeep("documents", "get", "R-3", code=1).stderr
    rejected = [line["rejected"] for line in ragkeep.lines(*wanted) if "rejected" in line]
    assert [(one["document_id"], one["reason"]) for one in rejected] == [("R-3", "DOCUMENT_HIDDEN")]  # type: ignore[index]
    gone = [
        line["deleted"]["document_id"] for line in ragkeep.lines("documents", "delete", "--all", "--yes") if "deleted" in line
    ]  # type: ignore[index]
    assert gone == ["R-1", "R-2"]
    del ragkeep.env["RAGKEEP_TOKEN_FILE"]
    assert '"R-3"' in ragkeep("export", "service-tickets", "--tenant", "rooms").stdout
    ragkeep.env["RAGKEEP_TOKEN_FILE"] = str(acting)


def test_without_documents_the_persons_tenant_is_named_as_such(ragkeep: Command, acting: Path) -> None:
    """The command's own tenant has some, and is not the one that was asked in."""
    acting.write_text(ragkeep("token", "li.wei", "--tenant", "empty").stdout)
    ran = ragkeep("search", "printer")
    assert ran.stdout == "Nothing was found in service-tickets of the person's tenant.\n"
    assert "The person's tenant has no documents in service-tickets that you may see." in ran.stderr


def test_the_token_alone_is_on_stdout(ragkeep: Command) -> None:
    """So that it can be written to a file; with --json it says what it is."""
    made = ragkeep("token", "王芳", "--role", "reader", "--role", "unsealer", "--group", "icu", "--for", "15m")
    assert made.stdout.count(".") == 2
    assert made.stdout == made.stdout.strip() + "\n"
    # With the zone of the time.
    assert re.search(r"For 王芳 in demo as reader, unsealer, in the groups icu, until .* [A-Z]{3,}\.", made.stderr)
    assert ", in no group, until" in ragkeep("token", "王芳").stderr
    (found,) = ragkeep.lines("token", "王芳", "--role", "auditor", "--group", "icu")
    line = found["token"]
    assert isinstance(line, dict)
    assert (line["sub"], line["roles"], line["groups"], line["tenant"]) == ("王芳", ["auditor"], ["icu"], "demo")
    assert line["expires"]
    assert line["id"]


@pytest.mark.parametrize("lasts", ["", "8", "h", "31d", "-1h", "0s", "1.5h"])
def test_a_time_that_is_none_is_wrong_usage(ragkeep: Command, lasts: str) -> None:
    """Exit code 2, and what would be right."""
    assert "8h" in ragkeep("token", "x", f"--for={lasts}", code=2).stderr


def test_a_file_that_is_not_there_is_named(ragkeep: Command, acting: Path) -> None:
    """The reason and the path; and what is no JWT is not sent."""
    assert "TOKEN_UNUSABLE" in ragkeep("search", "printer", "--json", code=1).stdout
    acting.write_text("not a token")
    refused = ragkeep("search", "printer", "--json", code=1)
    assert "not a token" not in refused.stdout + refused.stderr


def test_where_an_identity_provider_issues_tokens_none_are_made(tmp_path: Path) -> None:
    """Its keys are in force, and a token of the folder would be refused."""
    issuer = Issuer("RS256")
    data = tmp_path / "data"
    data.mkdir()
    issuer.write(data / "jwks.json")
    claims = 'jwt_issuer = "https://id.clinic.example"\njwt_audience = "ragkeep"\n'
    (data / "ragkeep.toml").write_text(f'[gateway]\njwt_jwks = "{data}/jwks.json"\n{claims}')
    with running(tmp_path) as own:
        assert "TOKEN_UNUSABLE" in own("token", "li.wei", "--json", code=1).stdout
        (tmp_path / "t").write_text(issuer.token())
        own.env["RAGKEEP_TOKEN_FILE"] = str(tmp_path / "t")
        assert own("search", "printer", "--json").stdout
        del own.env["RAGKEEP_TOKEN_FILE"]
