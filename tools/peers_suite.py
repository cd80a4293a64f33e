"""Our pipeline and models under diffusers' own tests; run by `tools/peers.py`, never by our suite.

The mixins come from a checkout of the diffusers repository, whose root lies on the path as the package
`tests`. Here stands only what they ask of a class under test: small random parts and inputs. Left out are the
mixins of what is not ours (IP adapters, single files, quantisers), those of several processes, and of the
connector the LoRA mixin, which writes diffusers' names of attention layers (`to_q`) into its tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.models import testing_utils as models
from tests.pipelines import testing_utils as pipelines
from tests.testing_utils import torch_device

from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.pipeline import DeepGenPipeline
from parity import Goldens

GOLDENS = Goldens(Path(__file__).parents[1] / "tests" / "goldens")
TRANSFORMER = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "joint_attention_dim": 40,
    "caption_projection_dim": 48,
    "pooled_projection_dim": 24,
    "out_channels": 16,
    "pos_embed_max_size": 24,
    "dual_attention_layers": (0,),
    "qk_norm": "rms_norm",
}
CONNECTOR = {
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_think_tokens": 16,
    "vlm_hidden_size": 32,
    "vlm_num_layers": 12,
    "pooled_projection_dim": 24,
    "joint_attention_dim": 40,
}


def noise(*shape: int) -> torch.Tensor:
    """The same tensor at every call, as the mixins ask for; CPU generator, then their device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(torch_device)


# --- the pipeline -------------------------------------------------------------------------------------------


class PipelineConfig(pipelines.BasePipelineTesterConfig):
    """Text to image, 64 x 64, two steps."""

    pipeline_class = DeepGenPipeline
    required_input_params_in_call_signature = frozenset(
        {
            "prompt",
            "image",
            "height",
            "width",
            "guidance_scale",
            "negative_prompt",
            "prompt_embeds",
            "pooled_prompt_embeds",
            "negative_prompt_embeds",
            "negative_pooled_prompt_embeds",
            "joint_attention_kwargs",
            "sigmas",
            "callback_on_step_end",
            "callback_on_step_end_tensor_inputs",
        }
    )
    batch_input_params = frozenset({"prompt", "negative_prompt"})
    callback_cfg_params = frozenset({"prompt_embeds", "pooled_prompt_embeds"})
    output_shape = (3, 64, 64)

    sizes = TRANSFORMER

    def get_dummy_components(self, num_layers: int = 2) -> dict[str, Any]:
        """The parts of the committed goldens, with a random transformer of so many layers."""
        parts = Goldens(GOLDENS.folder).pipeline().components
        torch.manual_seed(0)
        parts["transformer"] = DeepGenTransformer2DModel(**{**self.sizes, "num_layers": num_layers}).eval()
        return parts

    def get_dummy_inputs(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of a call."""
        return {
            "prompt": "A painting of a squirrel eating a burger",
            "generator": torch.Generator("cpu").manual_seed(seed),
            "num_inference_steps": 2,
            "guidance_scale": 5.0,
            "height": 64,
            "width": 64,
            "output_type": "pt",
        }


class TestPipeline(PipelineConfig, pipelines.PipelineTesterMixin):
    """Saving, loading, batching, callbacks, variants."""


class TestPipelineMemory(PipelineConfig, pipelines.MemoryTesterMixin):
    """Offloading and layerwise casting."""


class TestPipelinePyramidAttentionBroadcast(PipelineConfig, pipelines.PyramidAttentionBroadcastTesterMixin):
    """PyramidAttentionBroadcast."""


class TestPipelinePyramidAttentionBroadcastOfPlainBlocks(
    PipelineConfig, pipelines.PyramidAttentionBroadcastTesterMixin
):
    """The same with one attention a block, as the mixin counts them."""

    sizes = {**TRANSFORMER, "dual_attention_layers": ()}


class TestPipelineFasterCache(PipelineConfig, pipelines.FasterCacheTesterMixin):
    """FasterCache, told that our latents are pictures and not films."""

    FASTER_CACHE_CONFIG = {
        **pipelines.FasterCacheTesterMixin.FASTER_CACHE_CONFIG,
        "tensor_format": "BCHW",
    }


class TestPipelineFirstBlockCache(PipelineConfig, pipelines.FirstBlockCacheTesterMixin):
    """FirstBlockCache."""


class TestPipelineTaylorSeerCache(PipelineConfig, pipelines.TaylorSeerCacheTesterMixin):
    """TaylorSeer."""


class TestPipelineMagCache(PipelineConfig, pipelines.MagCacheTesterMixin):
    """MagCache."""


# --- the transformer ----------------------------------------------------------------------------------------


class TransformerConfig(models.BaseModelTesterConfig):
    """Two samples of 16 x 16 latents, 20 context tokens."""

    model_class = DeepGenTransformer2DModel
    output_shape = (16, 16, 16)
    input_shape = (16, 16, 16)
    main_input_name = "hidden_states"
    model_split_percents = [0.8, 0.8, 0.9]
    generator = property(lambda self: torch.Generator("cpu").manual_seed(0))

    def get_init_dict(self) -> dict[str, Any]:
        """Sizes."""
        return dict(TRANSFORMER)

    def get_dummy_inputs(self, batch_size: int = 2) -> dict[str, Any]:
        """Arguments of a forward pass."""
        return {
            "hidden_states": noise(batch_size, 16, 16, 16),
            "encoder_hidden_states": noise(batch_size, 20, 40),
            "pooled_projections": noise(batch_size, 24),
            "timestep": noise(batch_size).abs() * 100,
        }


class TestTransformer(TransformerConfig, models.ModelTesterMixin):
    """Saving, loading, variants, shards, precision."""


class TestTransformerAttention(TransformerConfig, models.AttentionTesterMixin):
    """Processors and fused projections."""


class TestTransformerTraining(TransformerConfig, models.TrainingTesterMixin):
    """Gradients and checkpointing."""

    def test_gradient_checkpointing_is_applied(self) -> None:
        """As the mixin has it, told our class's name."""
        super().test_gradient_checkpointing_is_applied(expected_set={"DeepGenTransformer2DModel"})


class TestTransformerMemory(TransformerConfig, models.MemoryTesterMixin):
    """Offloading and layerwise casting."""


class TestTransformerLora(TransformerConfig, models.LoraTesterMixin):
    """Adapters."""


class TestTransformerCompile(TransformerConfig, models.TorchCompileTesterMixin):
    """torch.compile."""


class TestTransformerPyramidAttentionBroadcast(
    TransformerConfig, models.PyramidAttentionBroadcastTesterMixin
):
    """PyramidAttentionBroadcast."""


class TestTransformerFasterCache(TransformerConfig, models.FasterCacheTesterMixin):
    """FasterCache."""


class TestTransformerFirstBlockCache(TransformerConfig, models.FirstBlockCacheTesterMixin):
    """FirstBlockCache."""


class TestTransformerMagCache(TransformerConfig, models.MagCacheTesterMixin):
    """MagCache."""


class TestTransformerTaylorSeerCache(TransformerConfig, models.TaylorSeerCacheTesterMixin):
    """TaylorSeer."""


# --- the connector ------------------------------------------------------------------------------------------


class ConnectorConfig(models.BaseModelTesterConfig):
    """Two prompts of 10 positions."""

    model_class = StackedChannelBridge
    output_shape = (10, 40)
    input_shape = (10, 64)
    main_input_name = "vlm_states"
    model_split_percents = [0.5, 0.7]

    def get_init_dict(self) -> dict[str, Any]:
        """Sizes."""
        return dict(CONNECTOR)

    def get_dummy_inputs(self, batch_size: int = 2) -> dict[str, Any]:
        """Arguments of a forward pass."""
        taps = StackedChannelBridge(**CONNECTOR).tap_projector.in_features
        return {"vlm_states": noise(batch_size, 10, taps)}


class TestConnector(ConnectorConfig, models.ModelTesterMixin):
    """Saving, loading, variants, shards, precision."""


class TestConnectorAttention(ConnectorConfig, models.AttentionTesterMixin):
    """Processors and fused projections."""


class TestConnectorTraining(ConnectorConfig, models.TrainingTesterMixin):
    """Gradients and checkpointing."""

    def test_gradient_checkpointing_is_applied(self) -> None:
        """As the mixin has it, told our class's name."""
        super().test_gradient_checkpointing_is_applied(expected_set={"StackedChannelBridge"})


class TestConnectorMemory(ConnectorConfig, models.MemoryTesterMixin):
    """Offloading and layerwise casting."""
