"""`ragkeep down`: ends what `ragkeep up` started on a data folder, and nothing else."""

from __future__ import annotations

import os
import signal
import time

from ragkeep_client.folder import DEFAULT, DataFolder, DataOption
from ragkeep_client.output import CommandError, JsonOption, Output


def down(data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Stop what `ragkeep up` started."""
    output = Output(as_json)
    folder = DataFolder(data)
    try:
        stopped = _stop(folder)
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    except OSError as error:
        raise output.fail("DATA_FOLDER_UNUSABLE", f"{folder.path}: {error.strerror or error}.") from None
    output.line("stopped", stopped)
    if not stopped:
        output.say(f"Nothing was running on {folder.path}.")
    for one in stopped:
        output.say(f"Stopped {one['service']} (pid {one['pid']})" + (", killed" if one["killed"] else "") + ".")


def _stop(folder: DataFolder) -> list[dict[str, object]]:
    from ragkeep_client.processes import END_S, end, is_ours

    state = folder.state()
    if state is None:
        return []
    processes = {service: (one.pid, one.started) for service, one in state.services.items()}
    alive = {service: process for service, process in processes.items() if is_ours(*process)}
    parent = (state.up_pid, state.up_started)
    if is_ours(*parent):
        # It watches them: it must end them itself, else it would report that they died.
        os.kill(state.up_pid, signal.SIGTERM)
        until = time.monotonic() + END_S + 3
        while is_ours(*parent) and time.monotonic() < until:
            time.sleep(0.05)
    killed = end(alive)
    folder.forget_state()
    return [{"service": name, "pid": process[0], "killed": name in killed} for name, process in alive.items()]
