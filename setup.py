"""Puts the configuration, the embedded model and the cases into the package, so that `biology trace` and `import biology as bio` work
outside a checkout too.

Everything else about the package stands in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = Path("biology/shipped")
"""Where they go in the package; `biology.config.shipped_folder` finds them there."""


class BuildWithModel(build_py):
    """What setuptools builds, and config.yaml, the embedded model, what was found in it, and the cases under their own names in `SHIPPED`."""

    def _shipped(self):
        files = [
            Path("config.yaml"),
            *(Path("reports/elegans") / name for name in ("labels.json", "supernodes.csv", "verdicts.csv")),
            *(file for name in ("data/models/elegans", "experiments") for file in sorted(Path(name).rglob("*"))),
        ]
        wanted = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
        return {file: Path(self.build_lib) / SHIPPED / file for file in wanted}

    def run(self):
        super().run()
        if not self.editable_mode:  # that reads the checkout itself
            for source, target in self._shipped().items():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode=True):
        shipped = [] if self.editable_mode else [str(target) for target in self._shipped().values()]
        return super().get_outputs(include_bytecode) + shipped


setup(cmdclass={"build_py": BuildWithModel})
