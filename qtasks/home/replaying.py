"""Makes the message that runs a dead letter again with other arguments, checked by the task as it is now.

The broker keeps no secret of the app, so that only the app can write and sign another envelope.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qtasks.broker.intake import REPLAY_OF
from qtasks.errors import ArgumentsError, DecodeError, SignatureError
from qtasks.home.app import QTasks
from qtasks.protocol.shapes import DeadLetter, Outgoing
from qtasks.tasks.envelope import SIGNATURE_HEADER, unpack
from qtasks.tasks.written import changed_call


def edited(app: QTasks, letter: DeadLetter, changes: Mapping[str, str], retries: int | None) -> Outgoing:
    """Make the message of a dead letter's call with `changes`, as a person writes them, to its arguments.

    It has the task's id, its queue and the options that hold now. Raises `ArgumentsError` if the arguments
    do not fit, or if the letter is no call of a task of this app.
    """
    message = letter.message
    signature = next(iter(message.header.get(SIGNATURE_HEADER, ())), None)
    try:
        app._get_signer().check(message.body, signature)
        envelope = unpack(message.body)
    except (SignatureError, DecodeError) as error:
        raise ArgumentsError(
            f"dead letter {letter.dlq_id} cannot be edited: {error}. Only tasks of the app can, whose body "
            "is not hidden; it can be replayed as it is"
        ) from error
    task = app.find(envelope.task)
    if task is None:
        raise ArgumentsError(
            f"dead letter {letter.dlq_id} calls the task {envelope.task!r}, which this app does not have"
        )
    args, kwargs = changed_call(task.signature, envelope.args, envelope.kwargs, changes)
    made = app._get_caller().again(envelope, task, args, kwargs)
    options = replace(
        made.options,
        forward=(*made.options.forward, (REPLAY_OF, message.message_id)),
        retries=made.options.retries if retries is None else retries,
    )
    return replace(made, options=options)
