"""Kernels of this interpreter, each with environment variables of its own, which can all be ended from outside."""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

KERNEL = "python3"  # what the notebooks ask for
COMMAND = [sys.executable, "-m", "ipykernel_launcher"]


class Kernels:
    """The kernels that a run of the suite has started."""

    def __init__(self) -> None:
        self._started: list[Any] = []
        self.ended = False

    def end(self) -> None:
        """Kill those that run, and let no other start: each notebook under way fails at once."""
        self.ended = True
        logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it would tell of every kernel that is gone
        for manager in self._started:
            if (process := getattr(manager.provisioner, "process", None)) is not None:
                process.kill()

    def manager(self, environment: Mapping[str, str]) -> type:
        """The class of a kernel manager, as nbclient takes one: whatever kernel is asked for, it starts this
        interpreter with `environment` on top of this process's.

        What a computer calls `python3` may belong to another environment, which lacks the package.
        """
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import AsyncKernelManager

        argv = [*COMMAND, "-f", "{connection_file}"]
        own, spec = self, KernelSpec(argv=argv, display_name="Python 3", language="python", name=KERNEL)

        class Manager(AsyncKernelManager):
            @property
            def kernel_spec(self) -> KernelSpec:
                return spec

            async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
                await super().start_kernel(**options | {"env": {**os.environ, **environment}})
                own._started.append(self)
                if own.ended:
                    own.end()

        return Manager
