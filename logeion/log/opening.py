"""The order in which a log is opened: lock, look, recover, and only then promise anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.errors import MalformedError, StorageError

from . import checkpoints, cutting, doubt, names
from .config import LogConfig
from .recovery import Recovery
from .store import Store, failed

if TYPE_CHECKING:
    from .log import Log


def open_log(
    kind: type[Log],
    store: Store,
    config: LogConfig,
    *,
    now_ms: int,
    topic_id: str | None,
    create: bool,
    accept_cut: bool,
) -> Log:
    """See ``Log.open``."""
    _make_directory(store, create)
    lock_fd = _lock(store)
    log: Log | None = None
    try:
        failure = _failure(store)
        if failure is not None and not accept_cut:
            path = store.path(names.FAILED)
            raise StorageError(
                f"{store.directory} must not be used: a sync failed here ({failure.cause}), so what it holds past "
                f"offset {failure.synced_end} may not be on the device; replace the replica, or accept the cut: "
                f"logeion log accept-cut {store.directory}",
                path,
            )
        _check_topic_id(store, topic_id)
        try:
            boot_id = store.files.boot_id()
        except OSError as error:
            raise failed(error, "read the boot id for", store.directory) from error
        found = Recovery(store, config, boot_id=boot_id, now_ms=now_ms).run()
        log = kind(store, config, lock_fd, boot_id, found, now_ms)
        _settle(log, found.log_start, failure)
        return log
    except BaseException:
        if log is not None:
            log.close(clean=False)
        else:
            store.files.close(lock_fd)
        raise


def _settle(log: Log, log_start: int, failure: checkpoints.Failure | None) -> None:
    """Bring the small files in line with what was found, before anything is appended."""
    store = log.store
    had_marker = store.files.exists(store.path(names.CLEAN_SHUTDOWN))
    if store.read(names.EPOCHS, 1 << 24) != log.epochs.encode():
        log.write_epochs()
    if log_start > log.end_offset:
        cutting.reset(log, log_start)
    if failure is not None:
        if failure.synced_end < log.end_offset:
            cutting.truncate(log, max(failure.synced_end, log.start_offset))
        log.sync()
        store.unlink(names.FAILED)
        log.write_recovery_point(log.end_offset)
    elif log.after_host_crash:
        # What we read came from the device, what we cut and rebuilt goes there now.
        log.sync()
        log.write_recovery_point(log.end_offset)
    if had_marker:
        # It must be gone for good before the log differs from what it says.
        store.unlink(names.CLEAN_SHUTDOWN)
    if had_marker or failure is not None or log.after_host_crash:
        store.sync_names()
    doubt.fall(log)
    doubt.rise(log)
    log.write_state()


def _make_directory(store: Store, create: bool) -> None:
    if store.files.exists(store.directory):
        return
    if not create:
        raise StorageError(f"there is no log in {store.directory}", store.directory)
    try:
        store.files.mkdir(store.directory)
        store.files.sync_dir(store.directory.rpartition("/")[0] or ".")
    except OSError as error:
        raise failed(error, "make", store.directory) from error


def _lock(store: Store) -> int:
    path = store.path(names.LOCK)
    try:
        return store.files.lock(path)
    except BlockingIOError as error:
        raise StorageError(f"{store.directory} is in use by another process (it holds {path})", path) from error
    except OSError as error:
        raise failed(error, "lock", path) from error


def _failure(store: Store) -> checkpoints.Failure | None:
    data = store.read(names.FAILED, checkpoints.LIMIT)
    return None if data is None else checkpoints.decode_failure(data)


def _check_topic_id(store: Store, topic_id: str | None) -> None:
    path = store.path(names.METADATA)
    data = store.read(names.METADATA, checkpoints.LIMIT)
    if not data:
        if topic_id is not None:
            store.replace(names.METADATA, checkpoints.encode_topic_id(topic_id), durable=True)
        return
    try:
        found = checkpoints.decode_topic_id(data)
    except MalformedError as error:
        raise StorageError(f"{path}: {error}; whose log this is cannot be told", path) from None
    if topic_id is not None and found != topic_id:
        raise StorageError(f"{store.directory} belongs to topic id {found}, not to {topic_id} (KIP-516)", path)
