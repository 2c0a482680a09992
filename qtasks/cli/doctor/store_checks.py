"""Checks of the store: a SQLite file with its keys and its owner, or PostgreSQL."""

from __future__ import annotations

from qtasks.broker.store.migrate_postgres import OLDEST
from qtasks.cli.doctor.facts import Facts
from qtasks.cli.doctor.findings import Check, Verdict, fail, failed, ok, warn
from qtasks.cli.output import counted
from qtasks.cli.tables import span

DAY_MS = 86_400_000
OLD_MS = 365 * DAY_MS
"""Keys that have not been rolled for so long are worth a thought."""
MIB = 1024 * 1024
OTHERS = 0o077
MANY_FILES = 1024
SOUND_SQLITE = (3, 51, 3)
"""Older ones may damage a file when several connections write; ours has one that does."""
NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs")


def look_at_database(facts: Facts) -> Verdict | None:
    """Whether the store can be opened, and is ours."""
    if facts.postgres is not None:
        if facts.postgres.error is not None:
            return failed(facts.postgres.error, "see that it runs, and that QTASKS_BROKER has its address")
        return ok(facts.postgres.shown)
    file = facts.file
    if file is None:
        return None
    if not file.has_folder:
        return fail(f"there is no folder {file.path.parent}", f"make it: mkdir -p {file.path.parent}")
    if file.error is not None:
        return failed(file.error, "name another file: QTASKS_BROKER=sqlite:///qtasks.db")
    if not file.may_write:
        return fail(
            f"this user may not write {file.path} and its folder",
            f"run the app as its owner, or give it away: chown -R USER {file.path.parent}",
        )
    return ok(f"{file.path}{'' if file.schema is not None else ', which the first start makes'}")


def look_at_schema(facts: Facts) -> Verdict | None:
    """Whether this version knows the schema."""
    store = facts.file or facts.postgres
    if store is None or store.schema is None:
        return None
    known = store.newest_schema
    if store.schema > known:
        return fail(
            f"the store has schema {store.schema}, and this version knows up to {known}",
            "upgrade qtasks to the version that the other processes have",
        )
    if store.schema == 0:
        return ok("there is none yet, the first start makes it")
    if store.schema < known:
        return warn(
            f"the store has schema {store.schema}, and this version makes it {known} at the next start",
            "take a backup first (qtasks db backup FILE), then start the app or run qtasks db migrate",
        )
    return ok(f"schema {known}")


def look_at_rights(facts: Facts) -> Verdict | None:
    """Whether others may read the arguments of tasks."""
    file = facts.file
    if file is None or file.mode is None:
        return None
    if file.mode & OTHERS:
        return warn(
            f"other users may read {file.path}, in which the arguments of tasks are",
            f"run: chmod 600 {file.path}",
        )
    return ok("for this user alone")


def look_at_keys_file(facts: Facts) -> Verdict | None:
    """Whether the secrets beside a file are whole, and nobody else's."""
    if facts.file is None or facts.file.keys is None:
        return None
    keys = facts.file.keys
    if keys.error is not None:
        return failed(keys.error, f"restore {keys.path} from a backup")
    return ok(f"{keys.path}, for this user alone")


def look_at_key_age(facts: Facts) -> Verdict | None:
    """How old the signing keys are."""
    rolled_at = facts.broker.rotated_at if facts.broker is not None else None
    if facts.file is not None and facts.file.keys is not None:
        rolled_at = facts.file.keys.rotated_at or facts.file.keys.made_at
    if rolled_at is None:
        return None
    age = facts.now - rolled_at
    if age < OLD_MS:
        return ok("the signing keys are younger than a year")
    return warn(
        f"the signing keys are {span(age // DAY_MS * DAY_MS)} old",
        "roll them: qtasks keys status, then qtasks keys roll",
    )


def look_at_disk(facts: Facts) -> Verdict | None:
    """Whether there is room for more."""
    file = facts.file
    if file is None or not file.has_folder:
        return None
    free, wanted = file.free_bytes // MIB, file.wanted_bytes // MIB
    if file.free_bytes < file.wanted_bytes:
        return fail(
            f"{free} MiB are free, and below {wanted} MiB nothing is accepted",
            f"make room on the disk of {file.path.parent}",
        )
    if file.free_bytes < 4 * file.wanted_bytes:
        return warn(
            f"{free} MiB are free, and below {wanted} MiB nothing will be accepted",
            f"make room on the disk of {file.path.parent}",
        )
    return ok("there is room")


def look_at_filesystem(facts: Facts) -> Verdict | None:
    """Whether the file is on this machine, as its locks hold for no other."""
    if facts.file is None or not facts.file.filesystem:
        return None
    if facts.file.filesystem in NETWORKED:
        return fail(
            f"{facts.file.path} is on {facts.file.filesystem}, a disk of the network, where locks do not "
            "hold and a file can be damaged",
            "put it on a disk of this machine, or use PostgreSQL",
        )
    return ok(facts.file.filesystem)


def look_at_sqlite(facts: Facts) -> Verdict | None:
    """Which SQLite this Python has."""
    if facts.file is None:
        return None
    version = ".".join(map(str, facts.sqlite_version))
    if facts.sqlite_version < SOUND_SQLITE:
        return warn(
            f"SQLite {version}: before 3.51.3, several programs that write to one file may damage it; qtasks "
            "alone does not, as one process owns it",
            "let no other program write to the file, or use a Python with a newer SQLite",
        )
    return ok(f"SQLite {version}")


def look_at_owner(facts: Facts) -> Verdict | None:
    """Whether somebody runs the tasks."""
    file = facts.file
    if file is None or file.schema is None:
        return None
    if file.has_owner:
        return ok("a process runs the tasks, and others forward to it")
    if file.is_held:
        return warn(
            "a process holds the file and takes nothing from others: it just starts, or is a standalone "
            "broker",
            "ask a standalone broker by its address: QTASKS_BROKER=http://127.0.0.1:8080",
        )
    return warn(
        "no process runs the tasks; they wait",
        "start your app, and pass lifespan=tasks.lifespan to it",
    )


def look_at_nodes(facts: Facts) -> Verdict | None:
    """Whether somebody runs the tasks of a shared database."""
    if facts.postgres is None or facts.postgres.nodes is None:
        return None
    if facts.postgres.nodes == 0:
        return warn(
            "no node is alive, so tasks wait",
            "start your app with lifespan=tasks.lifespan, or `qtasks broker --store URL`",
        )
    return ok(f"{counted(facts.postgres.nodes, 'node')} alive")


def look_at_open_files(facts: Facts) -> Verdict | None:
    """Whether connections will not run out of descriptors."""
    if facts.open_files < MANY_FILES:
        return warn(
            f"a process may open {facts.open_files} files, and each connection is one",
            f"raise it where the app is started: ulimit -n {MANY_FILES * 4}",
        )
    return ok(f"up to {facts.open_files}")


def look_at_postgres_version(facts: Facts) -> Verdict | None:
    """Whether PostgreSQL is new enough."""
    if facts.postgres is None or facts.postgres.version is None:
        return None
    version, oldest = facts.postgres.version // 10_000, OLDEST // 10_000
    if version < oldest:
        return fail(f"it is PostgreSQL {version}", f"upgrade it to {oldest} or newer")
    return ok(f"PostgreSQL {version}")


def look_at_postgres_durability(facts: Facts) -> Verdict | None:
    """Whether what PostgreSQL has committed outlives a crash."""
    if facts.postgres is None or not facts.postgres.parameters:
        return None
    parameters = facts.postgres.parameters
    if parameters.get("fsync") == "off":
        return fail(
            "fsync is off: a crash of its machine may damage the whole database",
            "set fsync = on in postgresql.conf and reload it",
        )
    if parameters.get("synchronous_commit") == "off":
        return warn(
            "synchronous_commit is off: a crash of PostgreSQL may lose the newest tasks, though they were "
            "accepted",
            "set it to on, at least for this user: ALTER ROLE … SET synchronous_commit = on",
        )
    return ok(f"synchronous_commit is {parameters.get('synchronous_commit')}")


def look_at_pooler(facts: Facts) -> Verdict | None:
    """Whether a pooler of transactions is told of."""
    if facts.postgres is None:
        return None
    if facts.postgres.has_pooler:
        return ok("pooler=on: nodes look for work instead of being told")
    if facts.postgres.looks_pooled:
        return warn(
            f"{facts.postgres.shown} looks like a pooler, which carries no wake-ups",
            "add ?pooler=on to QTASKS_BROKER, or name PostgreSQL itself",
        )
    return ok("none")


CHECKS = (
    Check("database", "the store can be opened and is ours", look_at_database),
    Check("schema", "this version knows its schema", look_at_schema),
    Check("file-rights", "nobody else may read the file", look_at_rights),
    Check(
        "keys-file", "the secrets beside the file are whole, and nobody else may read them", look_at_keys_file
    ),
    Check("key-age", "the signing keys are younger than a year", look_at_key_age),
    Check("disk", "there is room for more", look_at_disk),
    Check("filesystem", "the file is on a disk of this machine", look_at_filesystem),
    Check("sqlite", "SQLite is not older than 3.51.3", look_at_sqlite),
    Check("owner", "a process runs the tasks", look_at_owner),
    Check("nodes", "a node takes part in a shared database", look_at_nodes),
    Check("open-files", "a process may open enough files", look_at_open_files),
    Check("postgres-version", "PostgreSQL is new enough", look_at_postgres_version),
    Check("postgres-durability", "`fsync` and `synchronous_commit` are on", look_at_postgres_durability),
    Check("pooler", "a pooler before PostgreSQL is told of", look_at_pooler),
)
