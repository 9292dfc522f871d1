"""One deadline runs through every hop; each hop asks a little less of the next, so that the inner one reports first."""

from __future__ import annotations

from ragkeep_runtime.call import seconds_left
from ragkeep_runtime.errors import DeadlineExceeded

# Seconds a method may take where the caller says nothing, by method name; the same everywhere.
DEFAULTS = {
    "Search": 10.0,
    "GetDocument": 10.0,
    "Embed": 30.0,
    "GetVersions": 30.0,
    "PutDocuments": 60.0,
    "DeleteDocuments": 60.0,
    "DeleteCollection": 60.0,
    "ImportDocuments": 120.0,
    "GetTenant": 10.0,
    "SetTenantActive": 10.0,
    "ListTenants": 60.0,
    "DeleteTenant": 120.0,
    "Ask": 120.0,
    "Generate": 120.0,
    "UpdateFields": 60.0,
    "RotateKeys": 300.0,
    "LoadModel": 300.0,
    "PullModel": 300.0,
    "ReadEntries": 300.0,
    "VerifyLog": 300.0,
    "ListHeads": 60.0,
}
OTHERWISE = 30.0
# Seconds that a method's handler may take whatever the caller says.
LONGEST = 300.0
_SHARE, _MARGIN_S = 0.95, 0.02


def default_for(method: str) -> float:
    """Seconds a method (`/package.Service/Method`) may take by default."""
    return DEFAULTS.get(method.rpartition("/")[2], OTHERWISE)


def remaining(default_s: float) -> float:
    """Seconds that a piece of work below the current call may take: `default_s`, or less where the call has less left.

    Raises DeadlineExceeded where what is left would not be worth beginning.
    """
    left = seconds_left()
    if left is None:
        return default_s
    child = left * _SHARE - _MARGIN_S
    if child <= 0:
        raise DeadlineExceeded("The time that the caller gave ran out before this step began.")
    return min(default_s, child)
