"""Kernels in which notebooks run one after the other, and several of them side by side."""

import asyncio
import os
from concurrent import futures

from jupyter_client import KernelManager
from traitlets.config import Config

KERNEL = Config()
# not ipc, which fails where kernels start side by side
KERNEL.KernelManager = Config(transport="tcp", transport_encryption="auto")
# a kernel says otherwise that it was told to end
QUIET = ["--log-level=CRITICAL", "--HistoryManager.hist_file=:memory:"]
KERNEL.NotebookClient = Config(extra_arguments=QUIET[:1])
# what a notebook may change besides names; of matplotlib's style, what a figure does not set itself
# (reset takes __spec__ too, without which no process can be spawned)
REMEMBER = """
import os, sys
get_ipython().begun = os.getcwd(), dict(os.environ), list(sys.path)
get_ipython().reset()
__spec__ = None
"""
FORGET = """
import os, sys
folder, environment, paths = get_ipython().begun
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
sys.path[:] = paths
if "matplotlib" in sys.modules:
    sys.modules["matplotlib"].rc_file_defaults()
get_ipython().reset()
__spec__ = None
"""
PATIENCE = 60  # seconds that a kernel may take to answer
ASYNCHRONOUS = "jupyter_client.asynchronous.AsyncKernelClient"  # as papermill wants it


class Kernel:
    """A process for notebooks: what one has imported and read is there for the next.

    Of its names, folder, environment and style nothing is left."""

    def __init__(self):
        self._manager = None
        self.stopped = False  # from outside: what runs in it has not failed

    def ready(self, folder):
        """A KernelManager whose kernel has no names yet; started in `folder` where it has to be."""
        if self._manager and not asyncio.run(_did(self._manager, FORGET)):
            self.end()  # one that its last notebook ended, or left beyond help
        if self._manager is None:
            manager = KernelManager(kernel_name="python3", config=KERNEL, client_class=ASYNCHRONOUS)
            # one thread each, since there is one for each core
            environment = {"OMP_NUM_THREADS": "1", **os.environ}
            manager.start_kernel(cwd=str(folder), extra_arguments=QUIET, env=environment)
            self._manager = manager
            asyncio.run(_did(manager, REMEMBER))
        return self._manager

    def end(self):
        """End the process, at once; a later `ready` starts another."""
        manager = self._manager
        self._manager = None
        if manager:
            manager.shutdown_kernel(now=True)

    def stop(self):
        """End the process for good."""
        self.stopped = True
        self.end()


async def _did(manager, code):
    """Whether a kernel ran some code to its end."""
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=PATIENCE)
        done = await client.execute(code, silent=True, reply=True, timeout=PATIENCE)
        return done["content"]["status"] == "ok"
    except (RuntimeError, TimeoutError):  # it is dead, or does not answer
        return False
    finally:
        client.stop_channels()


def side_by_side(tasks, work, at_once):
    """Yield (task, work(task, kernel)) as they end, `at_once` at a time, each with a Kernel.

    A kernel goes on with the study of its last task, or takes one that no other is at. What `work`
    raises is raised here; then, and when the caller has had enough, all kernels are stopped."""
    kernels = [Kernel() for _ in range(at_once)]
    pending = list(tasks)
    idle = list(kernels)
    running = {}
    study_of = {}
    pool = futures.ThreadPoolExecutor(max(1, at_once))
    try:
        while pending or running:
            while pending and idle:
                kernel = idle.pop(0)
                own = study_of.get(kernel)
                taken = set(study_of.values())
                task = min(pending, key=lambda task: (task.study != own, task.study in taken))
                pending.remove(task)
                study_of[kernel] = task.study
                running[pool.submit(work, task, kernel)] = task, kernel
            done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in done:
                task, kernel = running.pop(future)
                idle.append(kernel)
                yield task, future.result()
    finally:
        for kernel in kernels:
            kernel.stop()
        pool.shutdown(cancel_futures=True)
