"""PEP 517 backend: setuptools, building against the torch that is already installed.

`pip install .` builds in an isolated environment. Naming torch in `build-system.requires` would download a second,
often different torch (several GB) into it; not naming it leaves the isolated build without one. So this backend asks
for torch only where the target environment has none, and otherwise lets the build see the target's site-packages.
"""

from __future__ import annotations

import importlib.machinery
import os
import site
import sys
import sysconfig
from typing import Any

from setuptools import build_meta

prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
build_sdist = build_meta.build_sdist
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist


def _target_site_packages() -> list[str]:
    """Where the environment that is being installed into keeps its packages.

    Inside pip's isolated build, sysconfig still names the paths of the interpreter that runs pip.
    """
    paths = [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        paths.append(site.getusersitepackages())
    return [path for path in dict.fromkeys(paths) if os.path.isdir(path)]


def _has_torch() -> bool:
    # Looked up, not imported: torch is slow to import, and metadata must not need it.
    search = [*sys.path, *_target_site_packages()]
    return importlib.machinery.PathFinder.find_spec("torch", search) is not None


def _torch_requirement() -> list[str]:
    return [] if _has_torch() else ["torch>=2.10"]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch_requirement()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch_requirement()]


def _see_target_environment() -> None:
    # At the end: what the build environment has of its own (setuptools, ninja) wins.
    sys.path.extend(path for path in _target_site_packages() if path not in sys.path)


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    _see_target_environment()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    _see_target_environment()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
