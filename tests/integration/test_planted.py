"""Secrets and texts of documents reach no log, trace, audit line or help: planted ones, and the search that looks for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.generator.v1 import generator_pb2
from ragkeep.types.v1.types_pb2 import Collection, Comparison, Document, Filter, Value
from ragkeep_runtime.channel import open_channel
from tests import leaks, planted
from tests.collector import Receiver
from tests.planted import Kind, Planted
from tests.stack import SERVICES, Stack
from tests.tokens import Issuer, settings_for

TENANT = ("ragkeep-tenant", "demo")


async def refused(call: object) -> grpc.StatusCode:
    """How a call failed."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call  # type: ignore[misc]
    return failed.value.code()


def document(document_id: str, **fields: Value) -> Document:
    """One with the planted text and title."""
    texts = {"title": planted.TITLE, "description": planted.DOCUMENT, "solution": f"{planted.DOCUMENT}."}
    found = {name: Value(text=text) for name, text in texts.items()}
    found |= {"ticket_id": Value(keyword=document_id), "category": Value(keyword="x"), **fields}
    return Document(id=document_id, fields=found)


@pytest.mark.engine("e5")
@pytest.mark.engine("sqlite")
@pytest.mark.engine("quote")
async def test_no_call_leaves_text_or_token_in_log_trace_or_audit(tmp_path: Path, receiver: tuple[Receiver, str]) -> None:
    """Calls that are answered, refused and broken off, with planted texts wherever a text can stand; the caller saw them."""
    found, endpoint = receiver
    issuer = Issuer("HS256")
    issuer.write(tmp_path / "jwt.key")
    env = {name: {"RAGKEEP_OTLP_ENDPOINT": endpoint} for name in SERVICES}
    env["gateway"] |= settings_for(tmp_path / "jwt.key", issuer)
    stack = Stack(tmp_path, env)
    good = issuer.token(roles=["reader", "editor"])
    header, body, _ = good.split(".")
    try:
        stack.start()
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            rag = RagServiceStub(channel)
            metadata = (TENANT,)
            documents = [document("T-1"), document("T-2", unknown=Value(text=planted.DOCUMENT))]
            documents.append(document("T-3", description=Value(text=planted.DOCUMENT * 30_000)))
            await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=documents), metadata=metadata)
            turn = generator_pb2.Turn(question=planted.QUESTION, answer=planted.EARLIER)
            asked = pb.AskRequest(question=planted.QUESTION, history=[turn])
            asked.minimum_evidence.coverage = 0
            events = [event async for event in rag.Ask(asked, metadata=metadata)]
            assert planted.DOCUMENT in "".join(event.delta.text for event in events)
            wanted = Filter(equals=Comparison(field=planted.FILTER_VALUE, value=Value(keyword=planted.FILTER_VALUE)))
            await rag.Search(pb.SearchRequest(query=planted.QUESTION), metadata=metadata)
            for query, filter_ in ((planted.QUESTION, wanted), (planted.QUESTION * 300, None)):
                assert await refused(rag.Search(pb.SearchRequest(query=query, filter=filter_), metadata=metadata))
            broken = Collection(name="broken", content_template=f"{{{planted.DOCUMENT}}}")
            assert await refused(rag.CreateCollection(pb.CreateCollectionRequest(collection=broken), metadata=metadata))
            for token in (f"{header}.{body}.c2lnbmF0dXJlIHRoYXQgaXMgd3Jvbmc", planted.DOCUMENT.encode().hex(), good + "x"):
                sent = (TENANT, ("authorization", f"Bearer {token}"))
                code = await refused(rag.Search(pb.SearchRequest(query=planted.QUESTION), metadata=sent))
                assert code is grpc.StatusCode.UNAUTHENTICATED
            sent = (TENANT, ("authorization", f"Bearer {good}"))
            await rag.Search(pb.SearchRequest(query=planted.QUESTION), metadata=sent)
            # Engines gone: what fails inside says what failed, and not with what.
            stack.kill("embedder")
            assert await refused(rag.Search(pb.SearchRequest(query=planted.QUESTION), metadata=metadata))
            assert await refused(rag.ImportDocuments(pb.ImportDocumentsRequest(documents=[document("T-4")]), metadata=metadata))
    finally:
        stack.stop()
    outputs = {path.name for path in leaks._outputs(tmp_path)}
    assert {"exported.spans", *(f"{name}.log" for name in SERVICES)} <= outputs
    assert any(name.endswith(".jsonl") for name in outputs)
    assert "RagService/Ask" in found.file.read_text()
    assert "RagService/Ask" in stack.log("gateway")
    assert leaks.search(tmp_path).hits == []


@pytest.mark.parametrize(
    ("name", "content", "marker"),
    [
        ("gateway.log", '{"event":"x","text":"%s"}', "text"),
        ("deep/er/retriever.log", "%s", "text"),
        ("exported.spans", 'string_value: "%s"', "text"),
        ("audit/gateway-0/2026-01-01.jsonl", "%s", "text"),
        ("commands.output", "%s", "secret"),
        ("ollama.log", "%s", "secret"),
        ("gateway.log", "key file: %s", "key"),
        ("gateway.log", "-----BEGIN EC PRIVATE KEY-----", "private key"),
        (
            "gateway.log",
            "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0xxxx.c2lnbmF0dXJlc2lnbmF0dXJl",
            "token (JWT)",
        ),  # pragma: allowlist secret
    ],
)
@pytest.mark.parametrize("form", range(6))
def test_the_search_finds_what_is_there(tmp_path: Path, name: str, content: str, marker: str, form: int) -> None:
    """In every output, as written in any of the usual forms; without it there is nothing."""
    texts = {"text": "geheim 王小明 äü", "secret": "sealed 8731 ß"}
    known = [Planted("text", texts["text"], Kind.TEXT), Planted("secret", texts["secret"], Kind.SECRET)]
    key = "Zm9yIHRoaXMgdGVzdCBhbG9uZSwgYW5kIGxvbmcgZW5vdWdo"  # pragma: allowlist secret
    (tmp_path / "a.key").write_text(f"{key}\n")
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("nothing\n")
    assert leaks.search(tmp_path, known).hits == []
    what = leaks._forms(texts[marker])[form].decode() if marker in texts else key
    path.write_text(f"a line\n{content.replace('%s', what)}\n")
    found = leaks.search(tmp_path, known).hits
    path.unlink()  # the session's own search would find it too
    assert found == [(path, "content of a key file" if marker == "key" else marker)]


def test_what_a_reader_may_see_is_no_leak(tmp_path: Path) -> None:
    """Answers are shown to who asked; an audit line may hold the question's beginning."""
    (tmp_path / "audit").mkdir()
    (tmp_path / "commands.output").write_text(planted.DOCUMENT + planted.QUESTION)
    (tmp_path / "audit" / "a.jsonl").write_text(planted.QUESTION)
    assert leaks.search(tmp_path).hits == []


@pytest.mark.parametrize("planted_line", ["", "planted-diagnosis-8731"])
def test_a_session_with_a_leak_fails_and_names_it(tmp_path: Path, planted_line: str) -> None:
    """Though every test passed: by file and marker, and without the line."""
    (tmp_path / "inner").mkdir()
    inner = tmp_path / "inner" / "test_inner.py"
    inner.write_text(f"def test_it(tmp_path):\n    (tmp_path / 'service.log').write_text('event {planted_line} here')\n")
    # Elsewhere than this session's own folder, where its own search would find it.
    base = tmp_path.parent.parent / f"inner-of-{tmp_path.name}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.leaks", "-c", "/dev/null", "--rootdir", str(inner.parent)]
    ran = subprocess.run([*command, "--basetemp", str(base), str(inner)], capture_output=True, text=True, timeout=300)
    (base / "test_it0" / "service.log").unlink()
    assert "1 passed" in ran.stdout
    assert ran.returncode == (1 if planted_line else 0), ran.stdout + ran.stderr
    assert ("LEAKED: sealed diagnosis: " in ran.stdout) is bool(planted_line)
    assert ("service.log" in ran.stdout) is bool(planted_line)


def test_no_help_shows_what_is_set(tmp_path: Path) -> None:
    """Of every command, with secrets and texts in every variable that it reads."""
    program = (
        "import os, re, typer.main, click\n"
        "from typer.testing import CliRunner\n"
        "from ragkeep_client.command import app\n"
        "def walk(command, path):\n"
        "    yield path\n"
        "    for name, below in getattr(command, 'commands', {}).items():\n"
        "        yield from walk(below, [*path, name])\n"
        "for path in walk(typer.main.get_command(app), []):\n"
        "    ran = CliRunner().invoke(app, [*path, '--help'])\n"
        "    assert ran.exit_code == 0, (path, ran.output)\n"
        "    print('HELP OF', *path); print(ran.output)\n"
    )
    names = (
        "TENANT",
        "COLLECTION",
        "GATEWAY",
        "DATA",
        "TLS_CERT",
        "TLS_KEY",
        "TLS_CA",
        "KEYRING",
        "JWT_SECRET",
        "AUDIT_KEY",
        "TOKEN",
    )
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"} | {
        f"RAGKEEP_{one}": planted.DOCUMENT for one in names
    }
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("HELP OF") > 25
    assert "HELP OF keys rotate" in ran.stdout or "HELP OF audit verify" in ran.stdout
    for one in planted.PLANTED:
        assert one.text not in ran.stdout + ran.stderr
