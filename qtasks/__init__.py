"""qtasks: background tasks for any ASGI app, with no worker to run.

Names are loaded when they are first used, so that `import qtasks` is cheap in processes that only
define tasks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qtasks.errors import (
    ArgumentsError,
    BrokerError,
    BrokerFailed,
    BrokerUnavailable,
    BrokerUnreachable,
    ConfigurationError,
    EncodeError,
    QTasksError,
    Reject,
    RequestError,
    ResultError,
    ResultsUnavailable,
    ResultTimeout,
    Retry,
    SignatureError,
    TaskDefinitionError,
    TaskFailed,
    TaskTimeout,
    UnsupportedByBroker,
    WaitRefused,
)
from qtasks.version import VERSION as __version__

if TYPE_CHECKING:
    from qtasks.client.receiver import Receiver
    from qtasks.home.app import QTasks
    from qtasks.settings import Settings
    from qtasks.tasks.buffered import BufferedCall
    from qtasks.tasks.buffering import Buffer
    from qtasks.tasks.completed import as_completed
    from qtasks.tasks.context import Context, current
    from qtasks.tasks.default import task
    from qtasks.tasks.keys import Flow, Unique
    from qtasks.tasks.periodic import Periodic, cron, every
    from qtasks.tasks.progress import track
    from qtasks.tasks.queues import Queue
    from qtasks.tasks.result_info import Progress, RemoteError, TaskInfo
    from qtasks.tasks.results import AsyncResult
    from qtasks.tasks.task import Task

_LAZY = {
    "AsyncResult": "qtasks.tasks.results",
    "Buffer": "qtasks.tasks.buffering",
    "BufferedCall": "qtasks.tasks.buffered",
    "Context": "qtasks.tasks.context",
    "Flow": "qtasks.tasks.keys",
    "Periodic": "qtasks.tasks.periodic",
    "Progress": "qtasks.tasks.result_info",
    "QTasks": "qtasks.home.app",
    "Queue": "qtasks.tasks.queues",
    "Receiver": "qtasks.client.receiver",
    "RemoteError": "qtasks.tasks.result_info",
    "Settings": "qtasks.settings",
    "Task": "qtasks.tasks.task",
    "TaskInfo": "qtasks.tasks.result_info",
    "Unique": "qtasks.tasks.keys",
    "as_completed": "qtasks.tasks.completed",
    "cron": "qtasks.tasks.periodic",
    "current": "qtasks.tasks.context",
    "every": "qtasks.tasks.periodic",
    "task": "qtasks.tasks.default",
    "track": "qtasks.tasks.progress",
}

__all__ = [
    "ArgumentsError",
    "AsyncResult",
    "BrokerError",
    "BrokerFailed",
    "BrokerUnavailable",
    "BrokerUnreachable",
    "Buffer",
    "BufferedCall",
    "ConfigurationError",
    "Context",
    "EncodeError",
    "Flow",
    "Periodic",
    "Progress",
    "QTasks",
    "QTasksError",
    "Queue",
    "Receiver",
    "Reject",
    "RemoteError",
    "RequestError",
    "ResultError",
    "ResultTimeout",
    "ResultsUnavailable",
    "Retry",
    "Settings",
    "SignatureError",
    "Task",
    "TaskDefinitionError",
    "TaskFailed",
    "TaskInfo",
    "TaskTimeout",
    "Unique",
    "UnsupportedByBroker",
    "WaitRefused",
    "__version__",
    "as_completed",
    "cron",
    "current",
    "every",
    "task",
    "track",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'qtasks' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
