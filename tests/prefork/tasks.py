"""A Celery program whose tasks call through a mesh that was connected, and used, before its pool forked.

Its broker is a folder, named by `BROKER`; a task writes a line about what it did to the file `RESULTS`.
"""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery

from tests.prefork.preloaded import called

_folder = os.environ["BROKER"]

app: Any = Celery("tasks", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": _folder,
        "data_folder_out": _folder,
        "control_folder": f"{_folder}/control",
        "polling_interval": 0.02,
    },
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)


@app.task  # type: ignore[untyped-decorator,unused-ignore]
def call(number: int) -> None:
    """Make so many calls, and say so."""
    line = json.dumps({**called(number), "calls": number}) + "\n"
    file = os.open(os.environ["RESULTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, line.encode())
    os.close(file)
