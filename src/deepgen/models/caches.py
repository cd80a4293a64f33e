"""diffusers' caching techniques on the DiT: which of them fit it, and what a run with one must look like.

FirstBlockCache, MagCache and TaylorSeer keep what they remember apart for each `cache_context`, so the
branches of guidance may run together, one after the other, or one of them be skipped.
PyramidAttentionBroadcast and FasterCache count calls and know no contexts: with them both branches have to
run in the same call, at every step.
"""

from __future__ import annotations

from typing import Any

from torch import nn

PYRAMID_ATTENTION_BROADCAST = "pyramid_attention_broadcast"  # diffusers' names of these hooks
FASTER_CACHE = "faster_cache_denoiser"
FASTER_CACHE_BLOCK = "faster_cache_block"
_WITHOUT_CONTEXTS = {
    PYRAMID_ATTENTION_BROADCAST: "PyramidAttentionBroadcast",
    FASTER_CACHE: "FasterCache",
    FASTER_CACHE_BLOCK: "FasterCache",
}
FITTING = (
    "PyramidAttentionBroadcastConfig",
    "FasterCacheConfig",
    "FirstBlockCacheConfig",
    "MagCacheConfig",
    "TaylorSeerCacheConfig",
)


def own_hooks(module: nn.Module) -> dict[str, Any]:
    """diffusers' hooks on this module itself, by name."""
    registry = getattr(module, "_diffusers_hook", None)
    return {} if registry is None else registry.hooks


def remove_hooks(module: nn.Module) -> None:
    """Take diffusers' hooks off this module itself."""
    for name in list(own_hooks(module)):
        module._diffusers_hook.remove_hook(name, recurse=False)


def hooks(module: nn.Module) -> dict[str, Any]:
    """diffusers' hooks on a module and on everything inside, one of each name."""
    return {name: hook for part in module.modules() for name, hook in own_hooks(part).items()}


def without_contexts(transformer: nn.Module) -> str | None:
    """The technique at work that cannot tell the branches of guidance apart; None if there is none.

    Found by its hooks: `apply_pyramid_attention_broadcast(transformer, config)` leaves no other trace.
    """
    found = hooks(transformer).keys() & _WITHOUT_CONTEXTS.keys()
    return _WITHOUT_CONTEXTS[min(found)] if found else None


def check_config(config: Any) -> None:
    """ValueError for a technique that does not fit this model, or that lacks what it needs here."""
    name = type(config).__name__
    if name not in FITTING:
        raise ValueError(f"{name} is not made for this model; known: {', '.join(FITTING)}")
    has_clock = getattr(config, "current_timestep_callback", "none needed") is not None
    if not has_clock:
        raise ValueError(f"{name} needs current_timestep_callback=lambda: pipe.current_timestep")
    if name == "FasterCacheConfig" and not config.is_guidance_distilled:
        _check_format(config.tensor_format)


def check_run(transformer: nn.Module, is_guided: bool) -> None:
    """ValueError if FasterCache is at work and this run does not give it what it reads."""
    hook = own_hooks(transformer).get(FASTER_CACHE)  # asked before every step, so without a walk inside
    if hook is None or hook.is_guidance_distilled:
        return
    _check_format(hook.tensor_format)
    if not is_guided:
        raise ValueError(
            "FasterCache predicts the negative branch and this run has none: guide it above 1 to the end, "
            "give FasterCacheConfig(is_guidance_distilled=True), or transformer.disable_cache()"
        )


def _check_format(tensor_format: str) -> None:
    if tensor_format != "BCHW":
        raise ValueError(
            f"FasterCacheConfig has tensor_format={tensor_format!r}, which is for films; "
            "this model's latents are pictures: give tensor_format='BCHW'"
        )
