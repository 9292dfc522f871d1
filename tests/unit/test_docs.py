"""The pages keep up with the code."""

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


def test_links_between_pages_lead_somewhere() -> None:
    """Relative links of every page at the top and in docs."""
    import re

    for page in [*Path().glob("*.md"), *Path("docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_example_of_a_settings_file_is_right(tmp_path: Path) -> None:
    """As a reader copies it from docs/settings.md."""
    text = Path("docs/settings.md").read_text().partition("```toml")[2].partition("```")[0]
    (tmp_path / "ragkeep.toml").write_text(text)
    file = SettingsFile.read(tmp_path)
    own = own_settings(DataFolder(tmp_path), addresses_of(50061, 9161))
    check(file, resolve(file, {}, own, {}))
    assert file.of("generator")["num_ctx"] == "16384"
    assert file.up == {"ports": 50061, "health_ports": 9161}
