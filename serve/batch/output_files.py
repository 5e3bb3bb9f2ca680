"""Output files of batches: what became of every request, written when a batch ends."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from backbone.files import replacement
from serve.batch.bodies import ENDED, BatchError, BatchReply, LineResult
from serve.batch.input_file import read_lines
from serve.batch.store import BatchStore

_END = {"cancelling": "cancelled", "in_progress": "expired"}


def finalize(store: BatchStore, tenant: str, batch_id: str) -> None:
    """Write the output and error files of a batch, and end it; again where that was cut off."""
    now = store.now()

    def begin(batch: BatchReply) -> None:
        if batch.status == "in_progress" and now < batch.expires_at:
            batch.status, batch.finalizing_at = "finalizing", now

    batch = store.change_batch(batch_id, begin)
    if batch.status in ENDED:
        return
    answered, failed = store.counts(batch_id)
    output = error = None
    if answered:
        output = _write(store, tenant, batch, "output", store.results(batch_id, failed=False))
    if failed or answered < batch.request_counts.total:
        error = _write(store, tenant, batch, "error", _failed_lines(store, batch))

    def finish(batch: BatchReply) -> None:
        batch.output_file_id, batch.error_file_id = output, error
        batch.request_counts.completed, batch.request_counts.failed = answered, failed
        batch.status = _END.get(batch.status, "completed")  # type: ignore[assignment]
        setattr(batch, f"{batch.status}_at", now)

    store.change_batch(batch_id, finish)


def _write(
    store: BatchStore, tenant: str, batch: BatchReply, kind: str, documents: Iterator[bytes]
) -> str:
    file_id = f"file-{batch.id.removeprefix('batch_')}-{kind}"  # the same, when done again
    with replacement(store.path_of(file_id)) as path, path.open("wb") as file:
        file.writelines(document + b"\n" for document in documents)
    name = f"{batch.id}_{kind}.jsonl"
    store.add_file(tenant, file_id, filename=name, purpose="batch_output")
    return file_id


def _failed_lines(store: BatchStore, batch: BatchReply) -> Iterator[bytes]:
    """Yield the requests that failed, and then those that were not asked."""
    yield from store.results(batch.id, failed=True)
    done = store.done_lines(batch.id)
    code = "batch_cancelled" if batch.status == "cancelling" else "batch_expired"
    told = "the batch ended before this request was asked; send it in another one"
    error = BatchError(code=code, message=told)
    if len(done) == batch.request_counts.total:
        return
    for number, line in read_lines(store.path_of(batch.input_file_id)):
        if number not in done:
            one_id = f"batch_req_{batch.id.removeprefix('batch_')}_{number}"
            yield msgspec.json.encode(LineResult(id=one_id, custom_id=line.custom_id, error=error))
