"""What waits in the spool when a node starts: taken up again, less what ended the processes before too often."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.read import read_file
from qsm_runtime.serve.dicom_job import utc
from qsm_runtime.serve.log import StudyLog, hashed
from qsm_runtime.serve.spool import Spool
from qsm_runtime.serve.spool_files import label_of

UNREADABLE = "cannot be read: never acknowledged, lost by the disk, or the server ended each time that it tried"


def resume(
    waiting: Sequence[Path], spool: Spool, arrived: Callable[[list[Frame]], None], log: StudyLog, tries: int
) -> int:
    """Read what waits and let it arrive; how many studies were given up."""
    attempts = spool.attempts
    lost: list[str] = []
    studies: dict[str, list[str]] = {}
    for path in waiting:
        frames: list[Frame] | str = UNREADABLE
        if attempts.before(path.name) < tries:
            with spool.reading(path.name):
                frames = read_file(path)
        if isinstance(frames, str):
            lost.append(path.name)
            continue
        uid = frames[0].instance.study_uid
        studies.setdefault(uid, []).append(path.name)
        if attempts.before(label_of(uid)) < tries:
            arrived(frames)
    given_up = [uid for uid in studies if attempts.before(label_of(uid)) >= tries]
    attempts.keep({label_of(uid) for uid in studies})
    for uid in given_up:
        _give_up(spool, uid, studies[uid], log)
    if lost:
        job = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-unreadable"
        spool.claim(job, lost)
        spool.fail(job, {"reason": UNREADABLE, "objects": len(lost), "utc": utc()})
        log.event("scan.failed", level="error", job=job, reason="objects cannot be read", objects=len(lost))
    if waiting:
        log.event("spool.resumed", objects=len(waiting), unreadable=len(lost), given_up=len(given_up))
    return len(given_up)


def _give_up(spool: Spool, uid: str, names: list[str], log: StudyLog) -> None:
    study, label = hashed(uid), label_of(uid)
    tries, job = spool.attempts.before(label), f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{study}-given-up"
    said = f"the server ended {tries} times while it worked on this study; to try once more, send it again"
    spool.claim(job, names)
    spool.fail(job, {"study": study, "reason": said, "objects": len(names), "utc": utc()})
    spool.attempts.ended(label)
    log.event("study.given_up", level="error", study=study, job=job, tries=tries, objects=len(names))
