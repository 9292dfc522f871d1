"""Settings of a local installation: where each comes from, and all that is wrong with them at once."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkeep_client.engines import Wanted
from ragkeep_client.folder import DataFolder
from ragkeep_client.launching import addresses_of, launches_of, own_settings
from ragkeep_client.output import CommandError
from ragkeep_client.processes import environment
from ragkeep_client.settings import SERVICES, Setting, SettingsFile, Source, check, problems, resolve, unused


def read(folder: Path, text: str) -> SettingsFile:
    (folder / "ragkeep.toml").write_text(text)
    return SettingsFile.read(folder)


def resolved(
    folder: Path, text: str = "", outer: dict[str, str] | None = None, kept: dict[str, dict[str, str]] | None = None
) -> list[Setting]:
    own = own_settings(DataFolder(folder), addresses_of(50061, 9161))
    return resolve(read(folder, text), outer or {}, own, kept or {})


def one(settings: list[Setting], service: str, name: str) -> tuple[str, Source]:
    found = next(setting for setting in settings if (setting.service, setting.name) == (service, name))
    return found.value, found.source


def test_each_value_comes_from_the_first_that_says_it(tmp_path: Path) -> None:
    """The environment before the file, a service's section before what is for all, then the first start, then the default."""
    text = 'log_level = "debug"\n[embedder]\nlog_level = "warning"\nconcurrent = 3\n[generator]\nconcurrent = 2\n'
    kept = {"generator": {"engine": "ollama", "model": "smollm2:135m", "url": "http://127.0.0.1:1"}}
    found = resolved(tmp_path, text, {"RAGKEEP_WAITING": "7", "RAGKEEP_CONCURRENT": "5"}, kept)
    assert one(found, "gateway", "log_level") == ("debug", Source.FILE)
    assert one(found, "embedder", "log_level") == ("warning", Source.FILE)
    assert one(found, "embedder", "concurrent") == ("5", Source.ENVIRONMENT)
    assert one(found, "embedder", "waiting") == ("7", Source.ENVIRONMENT)
    assert one(found, "gateway", "default_limit") == ("5", Source.DEFAULT)
    assert one(found, "generator", "engine") == ("ollama", Source.CHOSEN)
    assert one(found, "generator", "model") == ("smollm2:135m", Source.CHOSEN)
    assert one(found, "generator", "ollama_url") == ("http://127.0.0.1:1", Source.CHOSEN)
    assert one(found, "embedder", "engine") == ("auto", Source.CHOSEN)
    assert one(found, "embedder", "listen") == ("127.0.0.1:50062", Source.UP)
    assert one(found, "gateway", "retriever") == ("127.0.0.1:50063", Source.UP)


def test_what_another_engine_reads_is_not_shown_as_if_it_counted(tmp_path: Path) -> None:
    """A model of Ollama beside e5 would be taken for what is served; what the site says itself is shown, whoever reads it."""
    kept = {"embedder": {"engine": "e5"}, "retriever": {"engine": "sqlite"}, "generator": {"engine": "ollama"}}
    found = resolved(tmp_path, '[retriever]\nweaviate_url = "http://127.0.0.1:1"\n', {}, kept)
    for service, name in (("embedder", "model"), ("embedder", "ollama_url"), ("retriever", "weaviate_grpc_port")):
        assert one(found, service, name) == ("", Source.UNUSED)
    assert one(found, "retriever", "weaviate_url") == ("http://127.0.0.1:1", Source.FILE)
    assert one(found, "generator", "model") == ("llama3.2", Source.DEFAULT)
    check(read(tmp_path, ""), found)
    for launch in launches_of(DataFolder(tmp_path), found, {}):
        assert not {"RAGKEEP_MODEL", "RAGKEEP_OLLAMA_URL"} & environment(launch.settings, {}).keys()


def test_an_engines_own_variable_is_taken_and_ours_comes_first(tmp_path: Path) -> None:
    """An empty one says nothing."""
    outer = {"OLLAMA_HOST": "127.0.0.1:1", "RAGKEEP_OLLAMA_URL": "http://127.0.0.1:2", "WEAVIATE_URL": ""}
    found = resolved(tmp_path, "", outer)
    assert one(found, "embedder", "ollama_url") == ("http://127.0.0.1:2", Source.ENVIRONMENT)
    assert one(found, "retriever", "weaviate_url") == ("http://127.0.0.1:8080", Source.DEFAULT)
    assert one(resolved(tmp_path, "", {"OLLAMA_HOST": "x"}), "generator", "ollama_url") == ("x", Source.ENVIRONMENT)
    with pytest.raises(CommandError, match="WEAVIATE_GRPC_PORT: Input should be a valid integer"):
        check(read(tmp_path, ""), resolved(tmp_path, "", {"WEAVIATE_GRPC_PORT": "many"}))


def test_a_process_is_started_with_what_is_shown(tmp_path: Path) -> None:
    """The environment that it gets holds each value but the defaults."""
    outer = {"RAGKEEP_WAITING": "7", "RAGKEEP_ENGINE": "weaviate", "RAGKEEP_LISTEN": "0.0.0.0:1", "PATH": "/bin"}
    found = resolved(tmp_path, "[embedder]\nconcurrent = 3\n", outer)
    for launch in launches_of(DataFolder(tmp_path), found, {}):
        given = environment(launch.settings, outer)
        assert "RAGKEEP_ENGINE" not in given
        for setting in found:
            if setting.service == launch.service and setting.source is not Source.CHOSEN:
                assert given.get(setting.variable, "") == ("" if setting.source is Source.DEFAULT else setting.value)


def test_every_wrong_setting_of_every_process_is_named_at_once(tmp_path: Path) -> None:
    """File and environment alike: an operator mends them in one go."""
    text = """
        log_level = "loud"
        model = "x"
        [embeder]
        [embedder]
        concurent = 4
        concurrent = 1000
        engine = "chroma"
        query_prefix = ["a"]
        [retriever]
        data = "/elsewhere"
        [generator]
        num_ctx = 1
        temperature = true
        [up]
        ports = 70000
        port = 1
    """
    file = read(tmp_path, text)
    with pytest.raises(CommandError) as wrong:
        check(file, resolved(tmp_path, text, {"RAGKEEP_CONCURRENT_ASKS": "many"}))
    assert wrong.value.reason == "SETTINGS_WRONG"
    for words in (
        "13 settings are wrong",
        "ragkeep.toml log_level: Input should be 'debug', 'info', 'warning' or 'error'.",
        "ragkeep.toml model: belongs into a section: [embedder], [generator].",
        "[embeder]: there is no such section; is embedder meant?",
        "[embedder] concurent: there is no such setting; is concurrent meant?",
        "[embedder] concurrent: Input should be less than or equal to 256.",
        "[embedder] engine: Input should be 'ollama' or 'e5'.",
        "[embedder] query_prefix: a text or a number is needed.",
        "[retriever] data: `ragkeep up` sets it itself.",
        "[generator] num_ctx: Input should be greater than or equal to 512.",
        "[generator] temperature: a text or a number is needed.",
        "[up] ports: a port from 1 to 65532 is needed",
        "[up] port: there is no such setting; is ports meant?",
        "RAGKEEP_CONCURRENT_ASKS: Input should be a valid integer",
    ):
        assert words in wrong.value.message


def test_a_file_that_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    """As are bytes that are no text."""
    assert "line 2" in read(tmp_path, "[embedder]\nconcurrent = = 3\n").problems[0]
    (tmp_path / "ragkeep.toml").write_bytes(b"\xff\xfe")
    assert "not TOML" in SettingsFile.read(tmp_path).problems[0]


def test_what_some_editors_put_before_the_text_is_passed_over(tmp_path: Path) -> None:
    """A byte order mark; and a NUL that no process could be given is named."""
    (tmp_path / "ragkeep.toml").write_bytes(b'\xef\xbb\xbf[embedder]\nmodel = "a"\nquery_prefix = "\\u0000"\n')
    file = SettingsFile.read(tmp_path)
    assert file.of("embedder") == {"model": "a"}
    assert file.problems == ("ragkeep.toml [embedder] query_prefix: no process can be given a NUL.",)


def test_without_a_file_nothing_is_said(tmp_path: Path) -> None:
    """And nothing is wrong."""
    file = SettingsFile.read(tmp_path)
    assert [file.of(service) for service in SERVICES] == [{}, {}, {}, {}]
    check(file, resolved(tmp_path))


def test_a_password_in_an_address_is_not_shown(tmp_path: Path) -> None:
    """Nowhere; the process gets it as it is."""
    found = resolved(tmp_path, '[generator]\nollama_url = "http://user:secret@127.0.0.1:11434"\n')
    setting = next(setting for setting in found if (setting.service, setting.name) == ("generator", "ollama_url"))
    assert setting.value.count("secret") == 1
    assert setting.shown == "http://…@127.0.0.1:11434"


def test_variables_that_nobody_reads_are_named() -> None:
    """A slip of the pen is not passed over."""
    outer = {
        "RAGKEEP_CONCURENT": "1",
        "RAGKEEP_LISTEN": "x",
        "RAGKEEP_MODEL": "x",
        "RAGKEEP_DATA": "x",
        "RAGKEEP_WAITING": "1",
    }
    found = unused(outer, {"RAGKEEP_DATA"})
    assert found == [
        "RAGKEEP_CONCURENT is no setting of any process; is RAGKEEP_CONCURRENT meant?",
        "RAGKEEP_LISTEN is not used: `ragkeep up` sets it itself.",
        "RAGKEEP_MODEL is not used by `ragkeep up`, as it would mean two processes: use its options, or ragkeep.toml.",
    ]


def test_the_file_chooses_engines_where_nothing_else_does() -> None:
    """An option on the command line comes first."""
    said = {"engine": "quote", "model": "m", "ollama_url": "http://127.0.0.1:2"}
    filled = Wanted().with_file("generator", said)
    assert (filled.generator, filled.language_model, filled.ollama_url) == ("quote", "m", "http://127.0.0.1:2")
    given = Wanted(generator="ollama", language_model="other").with_file("generator", said)
    assert (given.generator, given.language_model) == ("ollama", "other")
    assert Wanted().with_file("retriever", {"weaviate_grpc_port": "7"}).weaviate_grpc_port == 7


KEYS = st.sampled_from(
    ["log_level", "engine", "concurrent", "num_ctx", "model", "listen", "ports", "weaviate_grpc_port", "x y"]
)
VALUES = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.integers(), max_size=2),
)
SECTIONS = st.dictionaries(KEYS, VALUES, max_size=4)


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, float):
        return str(value) if "n" in str(value) or "." in str(value) else f"{value:f}"
    return json.dumps(value).replace("\\u007f", "\x7f")


@settings(max_examples=60, deadline=None)
@given(
    top=SECTIONS,
    sections=st.dictionaries(st.sampled_from([*SERVICES, "up", "other"]), SECTIONS, max_size=4),
    junk=st.binary(max_size=4),
)
def test_whatever_the_file_holds_each_fault_is_a_sentence(
    top: dict[str, object], sections: dict[str, dict[str, object]], junk: bytes
) -> None:
    """Nothing gets past to a process that it could not be started with."""
    lines = [f'"{key}" = {toml(value)}' for key, value in top.items()]
    for name, section in sections.items():
        lines += [f"[{name}]", *(f'"{key}" = {toml(value)}' for key, value in section.items())]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "ragkeep.toml").write_bytes("\n".join(lines).encode() + junk)
        file = SettingsFile.read(path)
        found = resolve(file, {}, own_settings(DataFolder(path), addresses_of(50061, 9161)), {})
        wrong = [*file.problems, *problems(found)]
        assert all(words.endswith((".", "?")) or "TOML" in words for words in wrong)
        for launch in launches_of(DataFolder(path), found, {}):
            assert not any("\0" in value for value in launch.settings.values())
        if not wrong:
            for service in SERVICES[1:]:
                Wanted().with_file(service, file.of(service))
