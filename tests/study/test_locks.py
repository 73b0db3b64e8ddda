"""Whether locks exclude, as doctor finds it: mounts that are made up, locks that are none."""

import errno
import os
import re
import subprocess
import sys

import filelock
import pytest

from kdlib import __main__ as cli
from kdlib.config import Config, KdlibError
from kdlib.study import experiment, files, locks

NFS = "server:/home /home nfs4 rw,relatime,vers=4.2,hard,proto=tcp,{} 0 0"
LUSTRE = "10.0.0.1@tcp:/work /home lustre rw,seclabel,{}lazystatfs 0 0"
LOCAL = "its locks hold on one machine alone"


@pytest.mark.parametrize(
    "mount, said",
    [
        (NFS.format("local_lock=none"), ""),
        (NFS.format("local_lock=posix"), ""),  # of another kind of lock
        (NFS.format("local_lock=flock"), f"{LOCAL}.*nfs4 with local_lock=flock.*=none"),
        (
            NFS.format("nolock,local_lock=all").replace("nfs4", "nfs"),
            f"{LOCAL}.*nfs with local_lock=all, nolock",
        ),
        (LUSTRE.format("flock,"), ""),
        (LUSTRE.format("localflock,"), f"{LOCAL}.*lustre with localflock.*mounted with flock"),
        (LUSTRE.format(""), "it has no locks .lustre without flock.*mounted with flock"),
        ("/dev/sda /home ext4 rw 0 0", ""),
    ],
)
def test_a_mount_tells_whether_locks_hold_between_machines(tmp_path, monkeypatch, mount, said):
    other = "server:/x /home/me/else nfs rw,nolock 0 0"
    (tmp_path / "mounts").write_text(f"/dev/vda / ext4 rw 0 0\n{mount}\n{other}\n")
    kind, options = locks.mount_of("/home/me/records", tmp_path / "mounts")
    assert (kind, ",".join(options)) == tuple(mount.split()[2:4])
    monkeypatch.setattr(locks, "mount_of", lambda where: (kind, options))
    lines, wrong = locks.examined(tmp_path)
    if not said:
        assert wrong == [] and lines[0].startswith("locks: a second process is kept out")
        return
    assert lines == [] and len(wrong) == 1
    assert re.match(f"records: {tmp_path}: {said}.*or set KDLIB_RECORDS to", wrong[0])


def test_a_folder_is_on_the_mount_nearest_to_it_and_the_last_one_made(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "a / ext4 rw 0 0\nb /home nfs rw,hard 0 0\nc /home nfs rw,nolock 0 0\n"
        "d /homes xfs rw 0 0\ne /home/my\\040disk xfs rw,noatime 0 0\n"
    )
    kinds = {
        "/home/me": ("nfs", ["rw", "nolock"]),
        "/home": ("nfs", ["rw", "nolock"]),
        "/homes/me": ("xfs", ["rw"]),
        "/home/my disk/records": ("xfs", ["rw", "noatime"]),
        "/srv": ("ext4", ["rw"]),
    }
    assert {where: locks.mount_of(where, mounts) for where in kinds} == kinds
    assert locks.mount_of("/home", tmp_path / "not there") == ("", [])


def test_shared_folders_of_other_kinds_are_told_to_be_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "mount_of", lambda where: ("fuse.sshfs", ["rw"]))
    lines, wrong = locks.examined(tmp_path)
    assert wrong == [] and "is shared (fuse.sshfs)" in lines[1] and "flock" in lines[1]


class Pretends(filelock.FileLock):
    """Says that it holds what it does not."""

    def acquire(self):
        self._context.lock_counter = 1

    def release(self, force=False):
        self._context.lock_counter = 0


def test_a_lock_that_does_not_keep_a_second_process_out_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))
    monkeypatch.setattr(filelock, "FileLock", Pretends)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    said = f"WRONG: records: {tmp_path}: a second process got a lock that the first one held"
    assert said in out and "KDLIB_RECORDS" in out and list(tmp_path.iterdir()) == []


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    """A file system without locks, by what the system answers; its error number."""

    def flock(fd, how):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)
    return request.param


def test_where_there_are_no_locks_a_run_says_so_and_leaves_nothing(records_folder, no_locks):
    cfg = Config(epochs=1)
    with pytest.raises(KdlibError, match="files cannot be locked there") as e:
        experiment.run(cfg)
    (failure,) = experiment.together([cfg], wait=False).failures  # so that a sweep goes on
    said = str(e.value)
    assert str(failure) == said
    assert said.startswith(f"{records_folder}: ") and os.strerror(no_locks) in said
    assert "`python -m kdlib doctor` says what helps" in said and "Errno" not in said
    assert list(records_folder.glob("*.json")) == []
    lines, [wrong] = locks.examined(records_folder)
    assert lines == [] and f"files cannot be locked there ({locks.mount_of('/tmp')[0]}: " in wrong
    assert "have it mounted with locks, or set KDLIB_RECORDS" in wrong


def test_a_claim_is_free_when_its_process_was_killed(tmp_path):
    hold = (
        "import pathlib, sys, time\nfrom kdlib.study.files import claim\n"
        "with claim('run', pathlib.Path(sys.argv[1])) as held:\n"
        "    print(held, flush=True)\n    time.sleep(60)"
    )
    assert files.free("run", tmp_path)
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, cwd=files.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        assert not files.free("run", tmp_path) and files.free("another", tmp_path)
        process.kill()
    assert files.free("run", tmp_path)


def test_a_second_process_that_is_killed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SECOND", "import os; os.kill(os.getpid(), 9)")
    lines, [wrong] = locks.examined(tmp_path)
    assert lines == [] and wrong.endswith("as a second process failed (exit code -9)")
