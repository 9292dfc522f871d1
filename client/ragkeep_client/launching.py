"""How the four processes of a data folder are to be started: ports, identities, and what `up` itself sets for each."""

from __future__ import annotations

from collections.abc import Mapping

from ragkeep_client.certificates import CLI, HTTPS_FILE, TRUST_DOMAIN, Certificates
from ragkeep_client.engines import Choice
from ragkeep_client.folder import DataFolder
from ragkeep_client.output import CommandError
from ragkeep_client.ports import taken
from ragkeep_client.processes import DRAIN_S, ORDER, Launch
from ragkeep_client.settings import PREFIX, SERVICES, Setting, Source

TOKEN_ISSUER, TOKEN_AUDIENCE = "ragkeep token", "ragkeep"
Addresses = Mapping[str, tuple[str, str]]  # (gRPC, health) by service, host:port


def addresses_of(ports: int, health_ports: int) -> dict[str, tuple[str, str]]:
    """Four consecutive ports each, on loopback."""
    pairs = zip(SERVICES, range(ports, ports + 4), range(health_ports, health_ports + 4), strict=True)
    return {name: (f"127.0.0.1:{one}", f"127.0.0.1:{other}") for name, one, other in pairs}


def check_ports(ports: int, health_ports: int, http_port: int = 0) -> None:
    """Raises CommandError where one is taken, by whom, and with others to choose."""
    grpc, health = range(ports, ports + 4), range(health_ports, health_ports + 4)
    if set(grpc) & set(health):
        raise CommandError("PORT_IN_USE", "--ports and --health-ports name four ports each, and theirs overlap.")
    https = [http_port] if http_port else []
    if {*grpc, *health} & set(https):
        raise CommandError("PORT_IN_USE", f"--http-port {http_port} is one of the ports that --ports and --health-ports name.")
    occupied = taken([*grpc, *health, *https])
    if occupied:
        each = [f"{port} is in use by {who}" if who else f"{port} is in use" for port, who in occupied.items()]
        others = [f"--ports {ports + 100}"] if set(grpc) & set(occupied) else []
        others += [f"--health-ports {health_ports + 100}"] if set(health) & set(occupied) else []
        others += [f"--http-port {http_port + 100}"] if set(https) & set(occupied) else []
        raise CommandError("PORT_IN_USE", f"Port {'; port '.join(each)}. Choose others, e.g. {' '.join(others)}.")


def free_http_port(usual: int) -> int:
    """The usual port of HTTPS, or the next one that is free."""
    return next((port for port in range(usual, usual + 100) if not taken([port])), usual)


def own_settings(folder: DataFolder, addresses: Addresses, http_port: int = 0) -> dict[str, dict[str, str]]:
    """What `up` sets for each service, by the setting's name."""
    certificates = Certificates(folder.certificates)
    found = {}
    for service in SERVICES:
        cert, key = certificates.files(service)
        found[service] = {
            "listen": addresses[service][0],
            "health_listen": addresses[service][1],
            "tls_cert": str(cert),
            "tls_key": str(key),
            "tls_ca": str(certificates.ca),
            "trust_domain": TRUST_DOMAIN,
            "drain_s": str(DRAIN_S),
        }
    found["retriever"]["data"] = str(folder.store)
    found["gateway"]["policy_file"] = str(folder.policy)
    # People come with the tokens that `ragkeep token` makes, unless the site says whose it takes.
    found["gateway"] |= {"jwt_secret": str(folder.token_secret), "jwt_issuer": TOKEN_ISSUER, "jwt_audience": TOKEN_AUDIENCE}
    # It need not be there: `ragkeep keys init` makes it.
    found["gateway"]["keyring"] = str(folder.keyring)
    # The machine's name may change, the log's does not.
    found["gateway"] |= {"audit_folder": str(folder.audit), "audit_key": str(folder.audit_key), "audit_replica": "local"}
    # There need be none: docs/audit.md says how the key is replaced.
    found["gateway"]["audit_earlier_keys"] = str(folder.audit_key.with_name("audit-key.earlier-*"))
    if http_port:
        https, https_key = certificates.files(HTTPS_FILE)
        own = {"http_listen": f"127.0.0.1:{http_port}", "http_cert": str(https), "http_key": str(https_key)}
        found["gateway"] |= own
    found["gateway"] |= {other: addresses[other][0] for other in SERVICES if other != "gateway"}
    return found


def make_identities(folder: DataFolder) -> str:
    """Certificates, and a policy that knows this command; what there is to say of it, if anything. Raises OSError."""
    Certificates(folder.certificates).ensure()
    folder.ensure_token_secret()
    folder.ensure_audit_key()
    if folder.ensure_policy(CLI):
        return f"The command has new roles and groups in {folder.policy}: it may manage all there is, and see every document."
    return ""


def launches_of(folder: DataFolder, settings: list[Setting], choices: Mapping[str, Choice]) -> list[Launch]:
    """In the order in which they are started. The environment's own values reach the processes by themselves."""
    found = []
    for service in ORDER:
        given = {
            PREFIX + one.name.upper(): one.value
            for one in settings
            if one.service == service and one.source in (Source.FILE, Source.UP, Source.KEPT)
        }
        if service in choices:
            given |= choices[service].environment()
        found.append(Launch(service, given, folder.logs / f"{service}.log"))
    return found
