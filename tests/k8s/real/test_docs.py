"""docs/deploy-kubernetes.md, followed word by word on an empty cluster with cert-manager: to the cited answer, and away again.

The commands marked ⧗ need a running container. In their place the secrets that the cluster issued, with the environment that its pods
have, start the real processes: four of ours, Weaviate, Ollama and the two proxies; the caller's command asks them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ragkeep_runtime.audit.verify import day_files
from tests.engines.ollama import CHAT_MODEL, EMBEDDING_MODEL, OllamaProcess
from tests.engines.process import EngineProcess, binary
from tests.https import connections, event_of
from tests.k8s.envoy import ENVOY
from tests.k8s.manifests import SERVICES
from tests.k8s.real.cluster import Cluster, node, warnings
from tests.k8s.real.kubelet import Kubelet
from tests.pki import Authority
from tests.ports import free_port, free_ports
from tests.tokens import Issuer

pytestmark = [pytest.mark.engine("kubernetes")]
PAGE = Path("docs/deploy-kubernetes.md")
NEEDS_A_CONTAINER = "⧗"
PEOPLE, SEALED = "7. People, over HTTPS", "8. Sealed fields"
HOST = "ragkeep.example"


@dataclass
class Site:
    """A folder as a platform team has it, and the cluster that it deploys into."""

    folder: Path
    cluster: Cluster
    provider: Issuer  # of people's tokens
    ca: Path  # who signed the site's certificate for HTTPS
    ran: list[str] = field(default_factory=list)

    def follow(self, *sections: str) -> None:
        """Runs the commands of these sections of the page, in order."""
        for command in [command for section in sections for command in commands(section)]:
            if NEEDS_A_CONTAINER in command:
                continue
            env = {
                **os.environ,
                "KUBECONFIG": str(self.cluster.config()),
                "PATH": f"{binary('kubectl').parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command], cwd=self.folder, env=env, capture_output=True, text=True
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
            assert warnings(done.stderr) == [], f"$ {command}"
            self.ran.append(command)


def sections() -> dict[str, str]:
    """The page's text by heading."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(section: str) -> list[str]:
    """What is typed in a section."""
    blocks = re.findall(r"```console\n(.*?)```", sections()[section], re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def file_of(section: str, language: str) -> str:
    """The one file that a section shows in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", sections()[section], re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Sections 2 to 8 of the page, followed, with what a site has: a certificate of its own and an identity provider."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("deploy", "examples"):
        shutil.copytree(name, folder / name)
    (folder / "site").mkdir()
    (folder / "site" / "kustomization.yaml").write_text(file_of("2. The site", "yaml"))
    (folder / "site" / "policy.json").write_text(file_of("2. The site", "json"))
    (folder / "site" / "people.env").write_text(file_of(PEOPLE, "ini"))
    own = Authority(folder / "pki").issue("https", dns=[HOST])
    shutil.copy(own.cert, folder / "site.crt")
    shutil.copy(own.key, folder / "site.key")
    provider = Issuer("ES256")
    provider.write(folder / "jwks.json")
    cluster = Cluster(tmp_path_factory.mktemp("followed"))
    try:
        cluster.start()
        cluster.add_nodes([node("one", cpu=8, memory_gib=32)])
        found = Site(folder, cluster, provider, own.ca)
        found.follow(
            "3. The authority", "4. What pods find beforehand", "5. ragkeep", "6. A caller, and an answer", PEOPLE, SEALED
        )
        yield found
    finally:
        cluster.stop()


def test_every_command_of_the_page_is_run_or_needs_a_container(site: Site) -> None:
    """Of what is typed, only what runs inside a container (or builds an image) is left out."""
    typed = [command for section in sections() for command in commands(section)]
    left_out = [command for command in typed if NEEDS_A_CONTAINER in command]
    assert all(re.search(r"kubectl .*(exec|cp) ", command) for command in left_out)
    assert len(site.ran) >= 18
    assert len(left_out) == 4


def test_images_come_from_the_sites_registry(site: Site) -> None:
    """No pod names another."""
    found = site.cluster.get("pods")
    assert len(found) == 5
    for one in found:
        for container in [*one["spec"].get("initContainers", []), *one["spec"]["containers"]]:
            assert container["image"].startswith("registry.example/"), container["image"]


class Installation:
    """The processes of the pods, on this machine."""

    def __init__(self, kubelet: Kubelet, ollama: OllamaProcess) -> None:
        self.kubelet = kubelet
        self.processes: list[EngineProcess] = []
        self._listen = {name: f"127.0.0.1:{free_port()}" for name in SERVICES}
        self._health = {name: f"127.0.0.1:{free_port()}" for name in SERVICES}
        rest, grpc, weaviate_rest, weaviate_grpc, tls_rest, tls_grpc = (str(free_port()) for _ in range(6))
        ports = {"gateway": "1", "embedder": "2", "retriever": "3", "generator": "4"}
        at = kubelet.addresses
        for name, digit in ports.items():
            at[f"0.0.0.0:5006{digit}"] = at[f"dns:///{name}:5006{digit}"] = self._listen[name]
            at[f"0.0.0.0:916{digit}"] = self._health[name]
        at["dns:///gateway-replicas:50061"] = self._listen["gateway"]
        at["dns:///gateway.ragkeep.svc:50061"] = self._listen["gateway"]
        self.https = f"127.0.0.1:{free_port()}"
        at["0.0.0.0:8443"] = self.https
        at["127.0.0.1:11434"] = ollama.url.removeprefix("http://")
        self._beside_retriever = {"rest": rest, "grpc": grpc, "health": str(free_port())}
        self._beside_weaviate = {"rest": weaviate_rest, "grpc": weaviate_grpc, "health": str(free_port())}
        self._tls = {"8443": tls_rest, "8444": tls_grpc}

    def start(self) -> None:
        """Weaviate, the proxies, our four."""
        self._weaviate()
        for name, beside in (("weaviate", self._beside_weaviate), ("retriever", self._beside_retriever)):
            self._proxy(name, beside)
        at = self.kubelet.addresses
        at["http://127.0.0.1:8080"] = f"http://127.0.0.1:{self._beside_retriever['rest']}"
        models = {
            "embedder": {"RAGKEEP_MODEL": EMBEDDING_MODEL},
            "generator": {"RAGKEEP_MODEL": CHAT_MODEL, "RAGKEEP_NUM_CTX": "2048", "RAGKEEP_NUM_THREAD": "1"},
            "retriever": {"RAGKEEP_WEAVIATE_GRPC_PORT": self._beside_retriever["grpc"]},
        }
        for name in ("embedder", "retriever", "generator", "gateway"):
            pod = self.kubelet.pod(name)
            script = str(Path(sys.executable).with_name(pod.container(name)["command"][0]))
            self._run(name, [script], pod.environment(name) | models.get(name, {}), self._health[name], "/readyz")

    def stop(self) -> None:
        """Ends all."""
        for process in reversed(self.processes):
            process.stop()

    def caller(self, *args: str, stdin: str = os.devnull) -> subprocess.CompletedProcess[str]:
        """The command as the caller's pod would run it: its environment, its certificate, a file of ours on standard input."""
        pod = self.kubelet.pod("cli", "helpdesk")
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **pod.environment("cli")}
        script = str(Path(sys.executable).with_name("ragkeep"))
        with Path(stdin).open() as given:
            return subprocess.run([script, *args], env=env, stdin=given, capture_output=True, text=True, timeout=300)

    def _run(self, name: str, command: list[str], env: dict[str, str], health: str, path: str) -> None:
        process = EngineProcess(command, env, f"http://{health}", path, self.kubelet.folder / f"{name}.log")
        self.processes.append(process)
        process.start()

    def _weaviate(self) -> None:
        pod = self.kubelet.pod("weaviate")
        gossip, raft = free_ports(2), free_ports(2)
        here = {
            "GRPC_PORT": self._beside_weaviate["grpc"],
            "CLUSTER_GOSSIP_BIND_PORT": str(gossip),
            "CLUSTER_DATA_BIND_PORT": str(gossip + 1),
            "RAFT_PORT": str(raft),
            "RAFT_INTERNAL_RPC_PORT": str(raft + 1),
            # One machine without an address of its own.
            "CLUSTER_IN_LOCALHOST": "true",
            "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
        }
        args = [self._beside_weaviate["rest"] if arg == "8080" else arg for arg in pod.container("weaviate")["args"]]
        command = [str(binary("weaviate")), *args]
        at = f"127.0.0.1:{self._beside_weaviate['rest']}"
        self._run("weaviate", command, pod.environment("weaviate") | here, at, "/v1/.well-known/ready")

    def _proxy(self, name: str, beside: dict[str, str]) -> None:
        pod = self.kubelet.pod(name)
        at = self.kubelet.addresses
        before = dict(at)
        at |= {
            "address: 127.0.0.1, port_value: 8080": f"address: 127.0.0.1, port_value: {beside['rest']}",
            "address: 127.0.0.1, port_value: 50051": f"address: 127.0.0.1, port_value: {beside['grpc']}",
            "address: 0.0.0.0, port_value: 9166": f"address: 127.0.0.1, port_value: {beside['health']}",
        }
        for port, here in self._tls.items():
            for host in ("0.0.0.0", "weaviate"):
                at[f"address: {host}, port_value: {port}"] = f"address: 127.0.0.1, port_value: {here}"
        pod.rewrite("mtls-proxy", "/etc/envoy")
        self.kubelet.addresses = before
        config = pod.path("mtls-proxy", "/etc/envoy/envoy.yaml")
        command = [str(ENVOY), "--config-path", str(config), "--log-level", "warning", "--disable-hot-restart"]
        self._run(f"{name}-proxy", command, {}, f"127.0.0.1:{beside['health']}", "/ready")


@pytest.fixture(scope="module")
def installation(site: Site, ollama_server: OllamaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Everything that the pods would run, with what the cluster holds."""
    found = Installation(Kubelet(site.cluster, tmp_path_factory.mktemp("kubelet")), ollama_server)
    try:
        found.start()
        yield found
    finally:
        found.stop()


def in_the_caller(subcommand: str) -> list[list[str]]:
    """What the page runs inside the caller's container with `kubectl exec`, as arguments of the command."""
    lines = [line.partition("#")[0].partition("<")[0] for line in commands("6. A caller, and an answer") if " exec " in line]
    found = [shlex.split(line.partition(" -- ragkeep ")[2]) for line in lines]
    return [one for one in found if one[0] == subcommand]


@pytest.mark.engine("weaviate")
@pytest.mark.engine("ollama")
@pytest.mark.engine("envoy")
def test_the_issued_secrets_start_our_processes_which_answer_with_citations(installation: Installation) -> None:
    """Import and ask as the page does, over mutual TLS with certificates of cert-manager, through both proxies, with Weaviate's key."""
    (importing,), (asking,) = in_the_caller("import"), in_the_caller("ask")
    # On a machine that is busy the engine may need longer than a call may take: an import is resumed by running it again.
    for _ in range(3):
        imported = installation.caller(*importing, "--json", stdin="examples/service_tickets.csv")
        if imported.returncode == 0:
            break
    assert imported.returncode == 0, imported.stderr
    counts = [json.loads(line) for line in imported.stdout.splitlines()][-1]["imported"]
    assert counts["created"] + counts["unchanged"] == 120
    asked = installation.caller(*asking, "--json")
    assert asked.returncode == 0, asked.stderr
    events = [json.loads(line) for line in asked.stdout.splitlines()]
    (sources,) = [event["sources"] for event in events if "sources" in event]
    assert sources[0]["document_id"] == "T-1042"
    assert [event for event in events if "delta" in event or "answer" in event or "token" in event]


@pytest.mark.engine("weaviate")
@pytest.mark.engine("ollama")
async def test_a_person_asks_over_https_with_a_token_of_the_sites_provider(site: Site, installation: Installation) -> None:
    """By the name in the site's certificate: the answer has the ticket as its first source. Without a token it is 401, and a token for
    another audience is none."""
    settings = dict(line.split("=", 1) for line in file_of(PEOPLE, "ini").splitlines())
    right = {
        "iss": settings["RAGKEEP_JWT_ISSUER"],
        "aud": settings["RAGKEEP_JWT_AUDIENCE"],
        "tenant": "helpdesk",
        "roles": ["reader"],
    }
    tls = ssl.create_default_context(cafile=str(site.ca))
    async with connections(tls) as session:

        async def ask(token: str | None) -> tuple[int, str]:
            headers = {"Host": HOST} | ({"Authorization": f"Bearer {token}"} if token else {})
            body = {"question": "VPN error 809 since the Windows update", "collection": "service-tickets"}
            url = f"https://{installation.https}/chat/stream"
            async with session.post(url, json=body, headers=headers, server_hostname=HOST) as answer:
                return answer.status, await answer.text()

        assert (await ask(None))[0] == 401
        assert (await ask(site.provider.token(**right | {"aud": "elsewhere"})))[0] == 401
        status, text = await ask(site.provider.token(**right))
    assert status == 200, text
    events = [event for block in text.split("\n\n") if (event := event_of(block))]
    sources = next(data for name, data in events if name == "sources")
    assert "T-1042" in json.dumps(sources)
    assert events[-1][0] == "done", events[-1]


@pytest.mark.engine("weaviate")
@pytest.mark.engine("ollama")
def test_what_was_asked_is_proven_with_what_the_auditors_were_given(
    site: Site, installation: Installation, tmp_path: Path
) -> None:
    """The gateway's volume and the two files that the page hands out, without any service: who was shown the ticket, by the command
    and over HTTPS, and that no line is missing or was changed."""
    folder = installation.kubelet.pod("gateway").path("gateway", "/var/lib/ragkeep/audit")
    (replica,) = [one for one in folder.iterdir() if one.is_dir()]
    lines = [json.loads(line) for day in day_files(replica) for line in day.read_text().splitlines()]
    shown = [line for line in lines if line["kind"] == "asked" and "T-1042" in line["documents"]]
    assert {line.get("peer", "") for line in shown} == {"caller/helpdesk/cli", ""}
    assert {line.get("subject", "") for line in shown} == {"", "li.wei"}
    given = ("--key", str(site.folder / "audit-key"), "--public-key", str(site.folder / "audit-public-key.pem"))
    assert not (site.folder / "audit-signing-key.pem").exists()
    proven = installation.caller("audit", "verify", str(folder), *given, "--json")
    assert proven.returncode == 0, proven.stdout + proven.stderr
    shutil.copytree(folder, tmp_path / "audit")
    day = day_files(tmp_path / "audit" / replica.name)[-1]
    day.write_bytes(day.read_bytes().replace(b"T-1042", b"T-1043"))
    changed = installation.caller("audit", "verify", str(tmp_path / "audit"), *given, "--json")
    assert changed.returncode == 1, changed.stdout


@pytest.mark.engine("weaviate")
@pytest.mark.engine("ollama")
def test_who_is_not_in_the_policy_gets_nothing(installation: Installation) -> None:
    """A tenant that the site's policy does not give the caller."""
    refused = installation.caller("search", "VPN", "--tenant", "finance", "--json")
    assert refused.returncode == 1
    assert "TENANT_NOT_ALLOWED" in refused.stdout


def test_day_two_works_and_nothing_is_left(site: Site) -> None:
    """A new image, its undoing, and away with it: the namespaces and all in them are gone."""
    site.follow("Day two")
    left = [one["metadata"]["name"] for one in site.cluster.get("namespaces")]
    assert "ragkeep" not in left
    assert "helpdesk" not in left
