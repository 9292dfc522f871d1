"""What the caller of the call being served may see, as the retriever is told."""

from __future__ import annotations

from ragkeep.types.v1.types_pb2 import Groups, Scope
from ragkeep_runtime.call import call


def scope() -> Scope:
    """The tenant and the groups of the verified identity; no request has a say in it."""
    current = call()
    if current.groups is None:
        return Scope(tenant=current.tenant, every_document=True)
    return Scope(tenant=current.tenant, groups=Groups(names=sorted(current.groups)))
