"""`ragkeep policy`: the file that says who may do what, checked before a gateway reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.folder import DEFAULT, DataFolder, DataOption
from ragkeep_client.output import JsonOption, Output, plain

if TYPE_CHECKING:
    from ragkeep_runtime.policy import Grant, Policy

policy = typer.Typer(no_args_is_help=True, help="Check the file that says who may do what.")


# Without it typer would make the only command the group itself.
@policy.callback()
def _policy() -> None:
    pass


@policy.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The policy file.  [default: the data folder's]", show_default=False)
    ] = None,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Read a policy file as the gateway would, and say what it grants, or all that is wrong in it. Nothing is changed.

    Exit code 0 only where the gateway would take it.
    """
    from ragkeep_runtime.policy import Policy, PolicyWrong

    output = Output(as_json)
    path = DataFolder(data).policy if file is None else file.expanduser()
    try:
        found = Policy.parse(path.read_bytes())
    except OSError as error:
        raise output.fail("FILE_UNREADABLE", f"{path}: {error.strerror or error}.") from None
    except PolicyWrong as wrong:
        for fault in wrong.faults:
            output.line("fault", fault)
            output.note(plain(f"  {fault}"), style="red")
        raise output.fail("POLICY_WRONG", f"{path} is wrong: a gateway would keep the one before in force.") from None
    output.line("policy", {"file": str(path), **_facts(found)})
    if not as_json:
        _show(output, path, found)


def _facts(policy: Policy) -> dict[str, object]:
    return {
        "operator_tenant": policy.operator_tenant,
        "denied": sorted(policy.denied),
        "denied_people": sorted(policy.denied_people),
        "denied_tokens": sorted(policy.denied_tokens),
        "callers": {name: _grant(grant) for name, grant in policy.callers.items()},
        "tenants": sorted(policy.tenants),
    }


def _grant(grant: Grant) -> dict[str, object]:
    return {
        "tenants": sorted(grant.tenants),
        "roles": sorted(grant.roles),
        "groups": ["*"] if grant.groups is None else sorted(grant.groups),
        "people_only": grant.people_only,
    }


def _show(output: Output, path: Path, policy: Policy) -> None:
    from rich.text import Text

    output.say(f"{path}: a gateway would take it.", style="green")
    for name, grant in policy.callers.items():
        words = f"  in {_listed(grant.tenants)} as {_listed(grant.roles)}"
        words += ", sees every document" if grant.groups is None else ""
        words += f", sees documents of {_listed(grant.groups)}" if grant.groups else ""
        words += ", for people alone" if grant.people_only else ""
        words += ", but denied" if name in policy.denied else ""
        output.console.print(Text(plain(name), "bold").append(plain(words), "not bold"), soft_wrap=True)
    facts: dict[str, Iterable[str]] = {
        "denied": policy.denied,
        "people denied": policy.denied_people,
        "tokens denied": policy.denied_tokens,
        "operator": [policy.operator_tenant] if policy.operator_tenant else [],
        "tenants with quotas": policy.tenants,
    }
    for what, names in facts.items():
        if names:
            output.console.print(Text(f"{what}: ", "bold").append(plain(_listed(names)), "not bold"), soft_wrap=True)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
