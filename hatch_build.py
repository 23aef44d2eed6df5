"""The package's build: compiles the native kernels where there is a C++ compiler, or goes on without."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeKernels(BuildHookInterface):
    """Runs chatglm3/kernels/build.py; the wheel then is one for this system, and for every Python."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library beside its sources and put it into the wheel."""
        build = _load(Path(self.root) / "chatglm3" / "kernels" / "build.py")
        try:
            library = build.build()
        except build.CannotBuildError as error:
            # An older one would be found stale, or not run here at all.
            build.LIBRARY.unlink(missing_ok=True)
            self.app.display_warning(f"chatglm3 is installed without its native kernels: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(str(library.relative_to(self.root)))


def _load(path: Path) -> ModuleType:
    """The module at `path`, without importing the package that it belongs to."""
    spec = importlib.util.spec_from_file_location("chatglm3_kernels_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
