"""Runs of Snakemake that share one start.

Importing Snakemake takes longer than most of what a test asks of it. `Runs` keeps a process that has imported it, and
nothing of `biology`; each run is a fork of that process, in its own folder, which imports the copy of `biology` there.
The copies are the same but for a line or two, so the process has parsed each text once.
"""

import ast
import functools
import gc
import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path


class Runs:
    """`python -m snakemake ...`, as often as one likes; to be used in a `with`."""

    def __enter__(self):
        self._parent = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_):
        self._parent.communicate()

    def __call__(self, folder, *arguments, log, **environment):
        """Exit code of a run in `folder`, where it also finds `src`; all that it says is in the file `log`."""
        order = {"folder": str(folder), "arguments": arguments, "log": str(log), "environment": environment}
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        answer = self._parent.stdout.readline()
        assert answer, "the process that has imported Snakemake ended"
        return int(answer)


def serve():
    """Reads orders from stdin, a line each, and answers each with an exit code."""
    import pandas  # noqa: F401  (cases are read with it)
    import requests  # noqa: F401  (Snakemake's caches ask for it)
    from snakemake.cli import get_argument_parser

    get_argument_parser()  # and with it the plugins
    ast.parse = functools.cache(ast.parse)
    for file in (Path(__file__).parents[1] / "src/biology").rglob("*.py"):
        ast.parse(file.read_text(encoding="utf-8"))
    gc.freeze()
    assert "biology" not in sys.modules
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(folder, arguments, log, environment):
    """In a fork: what `python -m snakemake` does. Never returns."""
    code = 1
    try:
        nothing, said = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for place, file in enumerate((nothing, said, said)):
            os.dup2(file, place)
        os.environ.update(environment, PYTHONPATH=str(Path(folder) / "src"))
        os.chdir(folder)
        sys.path[:] = [folder, str(Path(folder) / "src"), *sys.path[1:]]
        sys.argv[:] = ["snakemake", *arguments]
        runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
