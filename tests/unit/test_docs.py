"""The pages keep up with the code."""

import re
from pathlib import Path

from ragkeep_client.folder import DataFolder
from ragkeep_client.launching import addresses_of, own_settings
from ragkeep_client.settings import SettingsFile, check, resolve
from ragkeep_embedder.settings import Settings as EmbedderSettings
from ragkeep_gateway.settings import Settings as GatewaySettings
from ragkeep_generator.settings import Settings as GeneratorSettings
from ragkeep_retriever.settings import Settings as RetrieverSettings
from ragkeep_runtime.errors import REASONS


def test_every_setting_has_its_row() -> None:
    """Name and description, in docs/settings.md."""
    page = Path("docs/settings.md").read_text()
    for settings in (EmbedderSettings, GatewaySettings, GeneratorSettings, RetrieverSettings):
        for name, field in settings.model_fields.items():
            assert f"`RAGKEEP_{name.upper()}`" in page
            assert field.description
            assert field.description in page, name


def test_every_reason_has_its_way_out() -> None:
    """In docs/troubleshooting.md."""
    page = Path("docs/troubleshooting.md").read_text()
    assert {reason for reason in REASONS if f"`{reason}`" not in page} == set()


def test_every_metric_has_its_row_and_every_row_its_metric() -> None:
    """In docs/metrics.md; a counter's name ends there as Prometheus shows it."""
    rows = set(re.findall(r"^\| `(ragkeep_\w+)`", Path("docs/metrics.md").read_text(), re.MULTILINE))
    made = {
        name + ("_total" if kind.endswith("counter") else "")
        for room in ("runtime", "services", "gateway", "client")
        for file in Path(room).rglob("*.py")
        for kind, name in re.findall(r'create_(\w+)\(\s*"(\w+)"', file.read_text())
        if name.startswith("ragkeep_")
    }
    assert len(made) >= 9
    assert made == rows


def test_every_span_and_attribute_has_its_row_and_no_other() -> None:
    """In docs/tracing.md; those of an RPC are named by it."""
    page = Path("docs/tracing.md").read_text()
    code = "\n".join(file.read_text() for room in ("runtime", "services", "gateway") for file in Path(room).rglob("*.py"))
    spans = set(re.findall(r'\bspan\("([a-z0-9]+\.\w+)"', code))
    assert len(spans) > 10
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`((?:e5|ollama|store)\.\w+)`", rows)) == spans
    attributes = set(
        re.findall(r'"(ragkeep\.(?:texts|purpose|model|passages|completion_tokens|documents|dry_run|limit|mode))"', code)
    )
    assert set(re.findall(r"`(ragkeep\.[a-z_]+)`", rows)) == attributes
    # A new one is seen: whatever is passed to a span.
    passed = set(re.findall(r'span\("[\w.]+", \{(.*?)\}\)', code))
    assert {name for one in passed for name in re.findall(r'"([\w.]+)":', one)} <= attributes


def test_links_between_pages_lead_somewhere() -> None:
    """Relative links of every page at the top and in docs."""
    for page in [*Path().glob("*.md"), *Path("docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_schema_on_the_page_is_one_and_every_key_has_its_row() -> None:
    """docs/collections.md: what is shown can be made, and what can be written is told."""
    from ragkeep_client.schema import Field, Schema, schema_message
    from ragkeep_client.schema_file import read_schema, write_schema
    from ragkeep_retriever.definitions import collection_of

    page = Path("docs/collections.md").read_text()
    shown = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert [collection_of(schema_message(read_schema(one.encode(), "page"))).name for one in shown] == ["articles"]
    one = Field("f", "text", searchable=True, filterable=True, required=True, sealed=True)
    whole = write_schema(Schema("a", (one,), "{f}", "f", 100, 200, "{passages} {question}", 0.5, 0.5, 10, 10, 10, "rq"))
    for key in re.findall(r"(\w+):", whole):
        assert key in ("a", "f") or f"`{key}`" in page or f"{key}:" in page, key


def test_the_example_of_a_settings_file_is_right(tmp_path: Path) -> None:
    """As a reader copies it from docs/settings.md."""
    text = Path("docs/settings.md").read_text().partition("```toml")[2].partition("```")[0]
    (tmp_path / "ragkeep.toml").write_text(text)
    file = SettingsFile.read(tmp_path)
    own = own_settings(DataFolder(tmp_path), addresses_of(50061, 9161))
    check(file, resolve(file, {}, own, {}))
    assert file.of("generator")["num_ctx"] == "16384"
    assert file.up == {"ports": 50061, "health_ports": 9161, "http_port": 8443}


def test_every_option_of_import_is_in_the_pages() -> None:
    """In docs/command.md, and its reasons in docs/troubleshooting.md."""
    import typer.main

    from ragkeep_client.command import app

    page, reasons = Path("docs/command.md").read_text(), Path("docs/troubleshooting.md").read_text()
    command = typer.main.get_command(app).commands["import"]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    assert {"--dry-run", "--rejected"} < options
    assert {name for name in options if f"`{name}" not in page} == set()
    found = {
        reason
        for path in Path("client/ragkeep_client").rglob("*.py")
        if path.stem in ("source", "csv_file", "jsonl_file", "intake", "rejected", "seen", "mapping", "import_")
        for reason in re.findall(r'(?:UnreadableFile|CommandError|fail)\(\s*"([A-Z_]+)"', path.read_text())
    }
    assert "REJECTED_FILE_UNUSABLE" in found
    assert {reason for reason in found if f"`{reason}`" not in reasons} == set()


def test_every_reason_of_the_command_has_its_way_out() -> None:
    """What the command's own errors are called, in docs/troubleshooting.md."""
    import re

    page = Path("docs/troubleshooting.md").read_text()
    raised = re.compile(r"(?:CommandError|output\.fail|UnreadableFile|\.fail)\(\s*\"([A-Z_]+)\"")
    found = {reason for file in Path("client").rglob("*.py") for reason in raised.findall(file.read_text())}
    assert len(found) > 12
    assert {reason for reason in found if f"`{reason}`" not in page} == set()
