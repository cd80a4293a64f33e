"""Old path of `deepgen.sampling`, for one release."""

from __future__ import annotations

import warnings

from deepgen.moved import keep_modules

_SAME_NAME = ("guidance", "noise_levels", "presets", "schedule", "sde", "solvers")
MODULES = {f"deepgen.diffusion.{name}": f"deepgen.sampling.{name}" for name in _SAME_NAME} | {
    "deepgen.diffusion.losses": "deepgen.sampling.interpolation"
}

warnings.warn("deepgen.diffusion is now deepgen.sampling", DeprecationWarning, stacklevel=2)
keep_modules(MODULES, {})
