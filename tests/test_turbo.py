"""Preset turbo: four steps without a negative branch, of what was distilled, and refused for what was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepgen.checkpoints.lora_files import read_lora
from deepgen.checkpoints.saving import DISTILLED_FILE, LORA_FILE
from deepgen.checkpoints.verify import require_unchanged
from deepgen.cli import main
from deepgen.distilled_lora import OWN, write_metadata
from deepgen.embedded import embedded_folder
from deepgen.generation import GenerationSettings
from deepgen.pipeline import DeepGenPipeline
from deepgen.rl.policy import Policy
from deepgen.sampling.few_steps import KEY, FewSteps, even_schedules, read_few_steps
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.jobs import GenerationRequest
from deepgen.serving.sampler import Sampler
from random_lora import write_lora

SHAPES_DIR = embedded_folder("shapes")
MADE_FOR = FewSteps(schedules=even_schedules((2, 4), 20.0))
PROMPT = "a red circle on a white background"
NOT_DISTILLED = "is for a model that was distilled to few steps, and this one was not"


@pytest.fixture(scope="module")
def tiny() -> DeepGenPipeline:
    pipe = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def calls_of(pipe: Any, **arguments: Any) -> list[tuple[int, float]]:
    """Rows and timestep of every call of the DiT."""
    found: list[tuple[int, float]] = []

    def note(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        found.append((len(given["hidden_states"]), float(given["timestep"][0])))

    hook = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        pipe(PROMPT, seed=1, **arguments)
    finally:
        hook.remove()
    return found


def picture(pipe: Any, **arguments: Any) -> np.ndarray:
    return np.asarray(pipe(PROMPT, seed=1, **arguments).images[0])


def test_four_steps_at_the_levels_that_are_written_and_one_branch(tiny: DeepGenPipeline) -> None:
    written = json.loads((SHAPES_DIR / "model_index.json").read_text())["defaults"][KEY]["steps"]
    shift = tiny.scheduler.config.shift
    for count in (None, 2, 8, 1):
        own = written[str(count or 4)]
        expected = [
            1000 * shift * sigma / (1 + (shift - 1) * sigma) + own["timestep_offset"]
            for sigma in own["sigmas"]
        ]
        calls = calls_of(tiny, preset="turbo", num_inference_steps=count)
        assert [rows for rows, _ in calls] == [1] * len(expected)
        assert [timestep for _, timestep in calls] == pytest.approx(expected, rel=1e-6)


def test_the_embedded_student_draws_what_it_is_asked(tiny: DeepGenPipeline) -> None:
    from deepgen.shapes.read import read

    images = tiny(["a red circle"] * 12, preset="turbo", seed=list(range(12))).images
    seen = [[(one.color, one.shape) for one in read(image).objects] for image in images]
    assert all(("red", "circle") in objects for objects in seen)
    assert sum(objects == [("red", "circle")] for objects in seen) >= 8  # 0.90 of single things are right


def test_other_presets_draw_as_if_there_were_no_student(tiny: DeepGenPipeline) -> None:
    other = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    other.set_progress_bar_config(disable=True)
    before = picture(other, num_inference_steps=4)
    turbo = picture(other, preset="turbo")
    assert not np.array_equal(before, turbo)
    assert np.array_equal(picture(other, num_inference_steps=4), before)
    assert not getattr(other.transformer, "peft_config", None)
    assert np.array_equal(picture(other, preset="turbo"), turbo)


def test_a_model_that_was_not_distilled_is_refused_with_the_reason(pipe: DeepGenPipeline) -> None:
    with pytest.raises(ValueError, match=NOT_DISTILLED):
        pipe(PROMPT, preset="turbo")
    with pytest.raises(ValueError, match=NOT_DISTILLED):
        Sampler(pipe, preset="turbo")
    sampler = Sampler(pipe)
    assert not sampler.model_info.can_use("turbo")
    with pytest.raises(ValueError, match=NOT_DISTILLED):
        sampler.plan(GenerationRequest(prompt=PROMPT, preset="turbo"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"num_inference_steps": 3}, "distilled for, 2, 4; got 3"),
        ({"guidance_scale": 2.0}, "leave out guidance_scale 2"),
        ({"negative_prompt": "blurry"}, "a negative_prompt would do nothing"),
        ({"solver": "heun"}, "leave out solver 'heun'"),
    ],
)
def test_what_a_student_cannot_do_is_refused(asked: dict[str, Any], said: str) -> None:
    settings = GenerationSettings(preset="turbo", **asked)
    with pytest.raises(ValueError, match=said):
        settings.resolve({KEY: MADE_FOR.to_json()})


def test_the_command_line_says_it_in_one_line(
    pipe: DeepGenPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe.save_pretrained(tmp_path / "model")
    arguments = ["generate", PROMPT, "--preset", "turbo", "--model", str(tmp_path / "model")]
    assert main([*arguments, "-o", str(tmp_path / "out.png")]) == 2
    assert NOT_DISTILLED in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "broken",
    [
        {"steps": {"4": {"sigmas": [1.0, 0.5]}}},
        {"steps": {"2": {"sigmas": [0.5, 1.0]}}},
        {"steps": {"2": {"sigmas": [1.0, 0.0]}}},
        {"steps": {}},
        [],
        "{",
    ],
)
def test_an_entry_that_is_broken_is_named(broken: Any) -> None:
    with pytest.raises(ValueError, match="LoRA x: the entry 'distilled' cannot be read"):
        read_few_steps(broken, "LoRA x")


def test_what_is_written_is_what_is_read() -> None:
    assert read_few_steps(json.dumps(MADE_FOR.to_json()), "x") == MADE_FOR
    assert FewSteps(schedules=even_schedules((1, 16), 0.0)).usual_steps == 1
    assert FewSteps(schedules=even_schedules((2, 8, 3), 0.0)).usual_steps == 3


# --- LoRA files ---------------------------------------------------------------------------------------------


@pytest.fixture
def distilled(fresh_pipe: DeepGenPipeline, tmp_path: Path) -> Path:
    """A random LoRA whose file says that it was distilled."""
    file = tmp_path / "turbo.safetensors"
    write_lora(fresh_pipe, file, 1, {"transformer": ["to_q", "to_k"]})
    write_metadata(file, MADE_FOR)
    return file


def test_a_lora_file_makes_a_model_a_distilled_one_as_long_as_it_is_active(
    pipe: DeepGenPipeline, distilled: Path, tmp_path: Path
) -> None:
    assert json.loads(read_lora(distilled).distilled or "") == MADE_FOR.to_json()
    pipe.load_lora_weights(str(distilled), adapter_name="turbo")
    assert [rows for rows, _ in calls_of(pipe, preset="turbo")] == [1] * 4
    pipe.save_lora_weights(tmp_path / "again", adapter_name="turbo")
    assert json.loads(read_lora(tmp_path / "again" / LORA_FILE).distilled or "") == MADE_FOR.to_json()
    pipe.remove_lora("turbo")
    with pytest.raises(ValueError, match=NOT_DISTILLED):
        pipe(PROMPT, preset="turbo")


def test_a_saved_model_takes_its_student_along(tiny: DeepGenPipeline, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["defaults"][KEY]["lora"] == DISTILLED_FILE
    require_unchanged(tmp_path)
    loaded = DeepGenPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert np.array_equal(picture(loaded, preset="turbo"), picture(tiny, preset="turbo"))
    (tmp_path / DISTILLED_FILE).unlink()
    with pytest.raises(ValueError, match="there is no such file"):
        DeepGenPipeline.from_pretrained(tmp_path)


@pytest.fixture
def half(tmp_path: Path) -> DeepGenPipeline:
    """`tiny` with a LoRA of its owner's at half its strength."""
    pipe = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    write_lora(pipe, tmp_path / "mine.safetensors", 3, {"transformer": ["to_q", "to_k"]}, alpha=8)
    pipe.set_adapters(["mine"], [0.5])
    return pipe


def strengths(pipe: Any) -> dict[str, float]:
    layer = pipe.transformer.transformer_blocks[0].attn.to_q
    return {name: layer.scaling[name] for name in layer.active_adapters}


def test_the_student_leaves_the_strength_of_other_loras_alone(half: DeepGenPipeline) -> None:
    before, expected = strengths(half), picture(half, num_inference_steps=4)
    assert before == {"mine": 1.0}  # half of alpha / rank
    picture(half, preset="turbo")
    assert strengths(half) == {"mine": 1.0, OWN: 1.0}
    assert np.array_equal(picture(half, num_inference_steps=4), expected)
    assert strengths(half) == before


def test_a_strength_of_one_call_is_not_the_students(half: DeepGenPipeline) -> None:
    whole = picture(half, preset="turbo", joint_attention_kwargs={"scale": 0.5})
    half.set_adapters(["mine", OWN], [0.25, 1.0])
    assert np.array_equal(picture(half, preset="turbo"), whole)
    tiny_again = picture(half, preset="turbo", joint_attention_kwargs={"scale": 0.0})
    half.remove_lora("mine")
    assert np.array_equal(picture(half, preset="turbo"), tiny_again)


# --- the server, and rollouts -------------------------------------------------------------------------------


def test_a_server_draws_the_students_pictures_beside_others(tiny: DeepGenPipeline, tmp_path: Path) -> None:
    expected = {
        preset: picture(tiny, preset=preset, **({} if preset == "turbo" else {"num_inference_steps": 4}))
        for preset in ("turbo", "exact")
    }
    other = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    with Engine(other, EngineConfig(max_batch=4)) as engine:
        assert OWN not in engine.model.loras
        assert engine.model.can_use("turbo")
        jobs = {
            preset: engine.submit(
                GenerationRequest(prompt=PROMPT, seed=1, preset=preset, num_inference_steps=4)
            )
            for preset in ("turbo", "exact")
        }
        for preset, job in jobs.items():
            drawn = np.asarray(job.result(60)[0].image).astype(int)
            assert np.abs(drawn - expected[preset]).max() <= 2, preset


def test_a_server_leaves_the_strength_of_the_pipelines_own_loras_alone(half: DeepGenPipeline) -> None:
    before = strengths(half)
    with Engine(half, EngineConfig()) as engine:
        for preset in ("turbo", "exact"):
            request = GenerationRequest(prompt=PROMPT, seed=1, preset=preset, num_inference_steps=4)
            engine.submit(request).result(60)
            assert strengths(half)["mine"] == before["mine"]


def test_pictures_with_and_without_the_student_share_a_forward(tiny: DeepGenPipeline) -> None:
    def sample(sampler: Sampler, **asked: Any) -> Any:
        plan = sampler.plan(GenerationRequest(prompt=PROMPT, **asked))
        return sampler.begin(plan, sampler.encode(plan), seed=1)

    asked = [
        {"preset": "turbo"},
        {"guidance_scale": 1.0, "num_inference_steps": 4},
    ]
    pipe = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    sampler = Sampler(pipe)
    together = [sample(sampler, **one) for one in asked]
    assert together[0].batch_key == together[1].batch_key
    sampler.step(together)
    for one, moved in zip(asked, together, strict=True):
        alone = sample(sampler, **one)
        sampler.step([alone])
        torch.testing.assert_close(moved.latents, alone.latents, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0].latents, together[1].latents, atol=1e-2)


def test_a_rollout_of_a_distilled_model_takes_its_levels(pipe: DeepGenPipeline) -> None:
    pipe.register_to_config(defaults={**pipe.config.defaults, KEY: MADE_FOR.to_json()})
    policy = Policy(
        pipe,
        guidance_scale=1.0,
        is_condition_trained=False,
        has_reference=False,
        device=torch.device("cpu"),
    )
    shift = pipe.scheduler.config.shift
    levels = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    torch.testing.assert_close(policy.sigmas(4, (8, 8)), shift * levels / (1 + (shift - 1) * levels))
    with pytest.raises(ValueError, match="a rollout of a distilled model takes 4 steps, got 2"):
        policy.sigmas(2, (8, 8))
    with pytest.raises(ValueError, match="distilled for, 2, 4; got 12"):
        policy.sigmas(12, (8, 8))


def test_a_converted_model_keeps_its_student_where_the_layout_has_room(tmp_path: Path) -> None:
    assert main(["convert", "shapes", str(tmp_path / "folder")]) == 0
    pipe = DeepGenPipeline.from_pretrained(tmp_path / "folder")
    assert pipe("a red circle", preset="turbo", seed=1).images[0].size == (96, 96)
    assert main(["convert", "shapes", str(tmp_path / "native"), "--layout", "native"]) == 0
    pipe = DeepGenPipeline.from_pretrained(tmp_path / "native", vlm=str(SHAPES_DIR), vae=str(SHAPES_DIR))
    with pytest.raises(ValueError, match="turbo"):
        pipe("a red circle", preset="turbo", seed=1)


# --- LoRAs that are disabled --------------------------------------------------------------------------------


def plain_tiny() -> DeepGenPipeline:
    pipe = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_disabled_students_lora_draws_as_if_it_were_not_there() -> None:
    pipe = plain_tiny()
    before = picture(pipe)
    pipe.load_lora_weights(SHAPES_DIR / DISTILLED_FILE, adapter_name="student")
    student = picture(pipe)
    pipe.disable_lora()
    assert not pipe.is_student
    assert np.abs(picture(pipe).astype(int) - before).max() <= 1  # not four steps of the teacher
    with pytest.raises(ValueError, match="whose LoRAs are disabled; call enable_lora"):
        pipe(PROMPT, preset="turbo", seed=1)
    pipe.enable_lora()
    assert np.array_equal(picture(pipe), student)


def test_disabling_after_turbo_disables_the_other_lora_and_keeps_turbo(tmp_path: Path) -> None:
    pipe = plain_tiny()
    before, turbo = picture(pipe), picture(pipe, preset="turbo")
    pipe.disable_lora()  # the model's own is alone in the DiT
    assert np.array_equal(picture(pipe, preset="turbo"), turbo)
    write_lora(pipe, tmp_path / "other.safetensors", 3, {"transformer": ["to_q", "to_k"]}, alpha=8)
    pipe.set_adapters("other", 0.5)
    other, both = picture(pipe), picture(pipe, preset="turbo")
    pipe.disable_lora()
    assert np.abs(picture(pipe).astype(int) - before).max() <= 1
    pipe.enable_lora()
    assert np.array_equal(picture(pipe), other)
    assert np.array_equal(picture(pipe, preset="turbo"), both)


def test_a_model_with_a_lora_is_saved_without_it_or_not_at_all(tmp_path: Path) -> None:
    pipe = plain_tiny()
    before = picture(pipe)
    write_lora(pipe, tmp_path / "other.safetensors", 3, {"transformer": ["to_q", "to_k"]}, alpha=8)
    with pytest.raises(ValueError, match=r"the transformer has LoRA layers.*unload_lora_weights\(\)"):
        pipe.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "model")
    again = DeepGenPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(picture(again), before)


def test_a_scale_of_a_lora_on_the_dit_alone_is_not_said_to_do_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = plain_tiny()
    picture(pipe, joint_attention_kwargs={"scale": 0.5}, num_inference_steps=2)
    assert "no LoRA is loaded" in caplog.text
    caplog.clear()
    write_lora(pipe, tmp_path / "other.safetensors", 3, {"transformer": ["to_q", "to_k"]}, alpha=8)
    picture(pipe, joint_attention_kwargs={"scale": 0.5}, num_inference_steps=2)
    assert "no LoRA is loaded" not in caplog.text
