"""Every setting of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ragkeep_runtime.settings import ProcessSettings

# A variable that is set to nothing names no file.
_MaybePath = Annotated[Path | None, BeforeValidator(lambda value: value or None)]


class Settings(ProcessSettings):
    """Read once, in `main.py`, from RAGKEEP_* environment variables."""

    listen: str = Field("127.0.0.1:50061", description="Address of the gRPC server (mutual TLS), host:port.")
    health_listen: str = Field("127.0.0.1:9161", description="Address of the plain HTTP health port, host:port.")
    embedder: str = Field("127.0.0.1:50062", description="Where the embedder is: host:port, or dns:///host:port.")
    retriever: str = Field("127.0.0.1:50063", description="Where the retriever is.")
    generator: str = Field("127.0.0.1:50064", description="Where the generator is.")
    concurrent_imports: int = Field(4, ge=1, le=64, description="Import requests worked on at once; twice as many wait.")
    concurrent_asks: int = Field(64, ge=1, le=4096, description="Questions worked on at once; as many wait.")
    replicas: int = Field(
        1, ge=1, le=1000, description="Gateways that serve: each keeps quotas of its share, a quota divided by this number."
    )
    default_limit: int = Field(5, ge=1, le=1000, description="Passages that a question is answered from by default.")
    keyring: Path | None = Field(
        None, description="JSON file of the keys that sealed fields are encrypted with; `ragkeep keys init` makes it. Followed."
    )
    http_listen: str = Field("", description="Address of the HTTPS edge for people, host:port. Empty: there is none.")
    http_cert: Path | None = Field(
        None, description="PEM file of the site's certificate for the HTTPS edge, with its chain. Followed."
    )
    http_key: Path | None = Field(None, description="PEM file of its private key. Followed.")
    http_hosts: str = Field(
        "", description="Host names that requests to the HTTPS edge may name, divided by commas. Empty: any."
    )
    http_origins: str = Field(
        "", description="Origins whose pages may ask (CORS), as https://host[:port], divided by commas. Empty: none."
    )
    http_connections: int = Field(512, ge=1, le=65536, description="Connections to the HTTPS edge at once; more are told 429.")
    jwt_secret: Path | None = Field(
        None, description="File with the secret that people's tokens are signed with (HS256), 32 bytes or more. Followed."
    )
    jwt_jwks: Path | None = Field(
        None, description="JWKS file with the public keys that people's tokens are signed with (RS256, ES256, EdDSA). Followed."
    )
    jwt_issuer: str = Field("", description="The `iss` that tokens must have. Needed where tokens are taken.")
    jwt_audience: str = Field("", description="The `aud` that tokens must have. Needed where tokens are taken.")
    jwt_leeway_s: float = Field(30.0, ge=0, le=300, description="Seconds that clocks may differ by.")
    jwt_subject_claim: str = Field("sub", min_length=1, description="The claim that names the person.")
    jwt_tenant_claim: str = Field("tenant", min_length=1, description="The claim that names the person's tenant.")
    jwt_roles_claim: str = Field(
        "roles", min_length=1, description="The claim with the person's roles; a path such as realm_access.roles too."
    )
    jwt_groups_claim: str = Field("groups", min_length=1, description="The claim with the person's groups; a path too.")
    jwt_role_prefix: str = Field("", description="Only roles that begin with it are ours: ragkeep- for ragkeep-reader.")
    audit_folder: _MaybePath = Field(
        None, description="Folder of the audit log; each replica writes a subfolder of its own. Empty: nothing is recorded."
    )
    audit_key: _MaybePath = Field(
        None, description="File with the secret that the audit log's lines are authenticated with, 32 bytes or more."
    )
    audit_signing_key: _MaybePath = Field(
        None,
        description="PEM file of the Ed25519 key that signs the log's heads. Default: one derived from RAGKEEP_AUDIT_KEY.",
    )
    audit_earlier_keys: _MaybePath = Field(
        None,
        description="Files of keys that were replaced, to read and prove the audit log with: secrets, or public keys in PEM. "
        "One file, or a name with a *.",
    )
    audit_replica: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$",
        description="Name of this replica in the audit log, its own among all. Default: the host's name.",
    )
    audit_question: Literal["text", "hmac"] = Field(
        "text", description="What is written of a question: its first 50 characters (text), or an HMAC of all of it (hmac)."
    )
    audit_days: int = Field(30, ge=1, le=36500, description="Days that the audit log's files are kept, today's counted.")
    audit_heads: _MaybePath = Field(
        None, description="Folder for signed heads of the audit log, best elsewhere than the log. Default: beside its files."
    )
    audit_head_s: float = Field(60.0, ge=0.1, le=86400, description="Seconds from one signed head to the next.")
    gateway_replicas_at: str = Field(
        "",
        description="Where all gateways are, for readers of the audit log: dns:///host:port, or host:port,host:port. "
        "Empty: only this one.",
    )
