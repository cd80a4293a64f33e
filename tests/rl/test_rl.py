"""Stage 3: the invariants of reinforcement learning, through the stage itself."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepgen.data.mixture import open_mixture
from deepgen.data.png import read_records
from deepgen.data.prompts import Prompt, PromptMix, PromptSet
from deepgen.models.errors import NotFiniteError
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import recipe
from deepgen.rewards.ensemble import RewardEnsemble, RewardEnsembleConfig, TooManyFailures
from deepgen.rewards.reward import EachAlone, RewardResult
from deepgen.rl.evaluation import RLEvaluationConfig
from deepgen.rl.judged_prompts import refuse_unused_rewards
from deepgen.rl.log_prob_gap import PolicyMismatch
from deepgen.rl.policy import Policy
from deepgen.rl.recipe import RLConfig
from deepgen.rl.rollout_buffer import RolloutBuffer
from deepgen.rl.stage import RLStage
from deepgen.sampling.windows import WindowConfig
from deepgen.training.adapters import LoraSettings
from deepgen.training.checkpoint_folders import latest_checkpoint
from deepgen.training.checkpoints import read_checkpoint_folder
from deepgen.training.export import Trained, export_folder
from deepgen.training.loop import train
from deepgen.training.objective import TrainingBatch
from deepgen.training.parallel import Processes
from deepgen.training.state import TrainState


class AnotherOf:
    """The second of two processes, the first of which does not answer."""

    rank, world_size = 1, 2

    def __init__(self, alone: Processes) -> None:
        self.gather = alone.gather


class Rows:
    """Captions, every second one an edit of a picture."""

    def __init__(self, *, edits: bool) -> None:
        self.edits = edits

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        words = "a red circle " + "on a white background " * (index % 3)
        shown = Image.new("RGB", (64, 64), (40 * index, 90, 120))
        return words, f"row {index}", ((shown,) if self.edits else ()), {}


class Brightness(EachAlone):
    """How bright a picture is."""

    version = "brightness-1"

    def judge(self, candidate) -> RewardResult:
        return RewardResult(float(np.asarray(candidate.image).mean() / 255))


class Broken(EachAlone):
    """A reward whose service has died."""

    version = "broken-1"

    def judge(self, candidate) -> RewardResult:
        raise ConnectionError("nobody answers")


class Constant(EachAlone):
    """Everything is worth the same."""

    version = "constant-1"

    def judge(self, candidate) -> RewardResult:
        return RewardResult(0.5)


def mix(*, edits: bool = False, rewards: dict[str, float] | None = None) -> PromptMix:
    weights = rewards or {"brightness": 1.0}
    return PromptMix(sets=(PromptSet(name="set", rows=Rows(edits=edits), weight=1.0, rewards=weights),))


def config(**changes: Any) -> RLConfig:
    base = RLConfig(
        device="cpu",
        num_steps=4,
        group_size=2,
        prompts_per_rollout=3,
        micro_batch_size=4,
        num_inference_steps=4,
        window=WindowConfig(kind="full"),
        height=32,
        width=48,
        sheet_every=0,
        objective_options=("kl_coef=0",),
        transformer_lora=LoraSettings(rank=2, alpha=4, dropout=0.0),
    )
    return replace(base, **changes)


def stage(
    pipe: DeepGenPipeline,
    *,
    edits: bool = False,
    panel: RewardEnsemble | None = None,
    rewards=None,
    **changes,
) -> RLStage:
    if edits:
        changes = {"height": None, "width": None, **changes}
    panel = panel or RewardEnsemble({"brightness": Brightness()})
    prompts = mix(edits=edits, rewards=rewards)
    torch.manual_seed(0)  # of the adapters, as the loop does
    return RLStage(config(**changes), Processes("cpu"), pipe, prompts, panel)


def explore(made: RLStage, number: int) -> RolloutBuffer:
    """A whole rollout."""
    return made.score(number, made.sample(number))


def gradients(made: RLStage, step: int = 0) -> dict[str, torch.Tensor]:
    for batch in made.batches(step):
        made.loss(batch).loss.backward()
    found = {n: p.grad.clone() for n, p in made.modules.named_parameters() if p.grad is not None}
    made.modules.zero_grad()
    return found


@pytest.mark.parametrize("sampler", ["cps", "flow", "dance"])
@pytest.mark.parametrize("edits", [False, True])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.5, None])
def test_the_ratio_is_one_before_the_first_update(
    pipe, sampler: str, edits: bool, guidance_scale: float | None
) -> None:
    made = stage(
        pipe, edits=edits, sampler=sampler, guidance_scale=guidance_scale, micro_batch_size=3, eta=0.7
    )
    batches = list(made.batches(0))
    assert sum(len(batch.members) for batch in batches) == 3 * 2 * 3  # prompts, images of each, trained steps
    for batch in batches:
        ratio = made.losses(batch).metrics["ratio"]
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-6, rtol=0)


@pytest.mark.parametrize("edits", [False, True])
def test_without_a_guidance_scale_pictures_and_edits_are_drawn_with_the_models_own(pipe, edits: bool) -> None:
    pipe.register_to_config(defaults={"guidance_scale": 3.0, "edit_guidance_scale": 1.5})
    prompts = [mix(edits=edits).draw(0, 0)]
    noisy, sigma = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.7])

    @torch.no_grad()
    def velocity(guidance_scale: float | None) -> torch.Tensor:
        policy = Policy(
            pipe,
            guidance_scale=guidance_scale,
            is_condition_trained=False,
            has_reference=False,
            device=noisy.device,
        )
        encoded = policy.encode(prompts, [torch.Generator().manual_seed(0)], 64, 64)
        return policy.velocity(encoded, [0], noisy, sigma)

    own, other = (1.5, 3.0) if edits else (3.0, 1.5)
    torch.testing.assert_close(velocity(None), velocity(own), atol=0, rtol=0)
    assert not torch.equal(velocity(None), velocity(other))


def test_a_step_scored_again_from_the_record_has_the_log_prob_it_was_drawn_with(pipe) -> None:
    made = stage(pipe, sampler="flow", eta=0.7)
    for batch in made.batches(0):
        loss = made.losses(batch)
        assert float(loss.metrics["approx_kl"].max()) < 1e-12


@pytest.mark.parametrize("sampler", ["cps", "flow"])
def test_the_gap_to_a_rollouts_log_probs_is_logged_by_noise_level_before_the_first_update(
    pipe, sampler: str
) -> None:
    made = stage(pipe, sampler=sampler, eta=0.7, updates_per_rollout=2)
    state = TrainState(made.modules, made.config.optim, 4, None)
    for step, is_logged in ((0, True), (1, False)):
        for batch in made.batches(step):
            made.loss(batch).loss.backward()
        state.update()
        gaps = {name: value for name, value in made.take_metrics().items() if "log_prob_gap" in name}
        assert bool(gaps) == is_logged
        if is_logged:
            assert gaps["log_prob_gap/largest"] == (max(value for value, _ in gaps.values()), 1.0)
            assert gaps["log_prob_gap/largest"][0] < 1e-6
            assert {"log_prob_gap/sigma 0.75-1", "log_prob_gap/sigma 0.5-0.75"} < set(gaps)


def other_weights(made: RLStage) -> None:
    for name, parameter in made.modules.named_parameters():
        if parameter.requires_grad and "lora_B" in name:
            parameter.data.add_(0.05)


def rounded_log_probs(made: RLStage) -> None:
    """A fault of the original (spec/rl.md, finding 4)."""
    assert made.buffer is not None
    for rollout in made.buffer.rollouts:
        rollout.trajectory.log_prob.copy_(rollout.trajectory.log_prob.bfloat16().float())


def no_number(made: RLStage) -> None:
    assert made.buffer is not None
    made.buffer.rollouts[0].trajectory.log_prob.fill_(float("nan"))


@pytest.mark.parametrize("fault", [other_weights, rounded_log_probs, no_number])
def test_a_run_stops_where_another_policy_is_trained_than_the_one_that_drew(pipe, fault: Any) -> None:
    made = stage(pipe, eta=1.0)
    batches = list(made.batches(0))
    fault(made)
    for batch in batches:
        made.loss(batch)
    with pytest.raises(
        PolicyMismatch, match=r"differ by \S+ at noise level \S+, and max_log_prob_gap is 0.001"
    ):
        made.check_step()


def test_a_gap_may_be_allowed_and_is_logged(pipe) -> None:
    made = stage(pipe, max_log_prob_gap=float("inf"))
    batches = list(made.batches(0))
    other_weights(made)
    for batch in batches:
        made.loss(batch)
    assert made.take_metrics()["log_prob_gap/largest"][0] > 1e-3


@pytest.mark.parametrize("edits", [False, True])
@torch.no_grad()
def test_a_rollout_keeps_what_its_steps_share_and_its_velocities_are_the_policys_bit_for_bit(
    pipe, edits: bool
) -> None:
    made = stage(pipe, edits=edits)
    (rollout, *_) = made.rollout_sampler.sample(0, [0])
    sigmas = made.policy.sigmas(4, rollout.trajectory.clean.shape[-2:])
    field = made.policy.rollout_velocity(rollout.prompts, rollout.rows, sigmas)
    calls = []
    pipe.transformer.context_embedder.register_forward_hook(lambda *_: calls.append(1))
    for step, sigma in enumerate(sigmas[:-1]):
        given = rollout.trajectory.clean + step, sigma.expand(len(rollout.rows))
        kept = field(*given)
        assert len(calls) == 1 + step
        assert torch.equal(kept, made.policy.velocity(rollout.prompts, rollout.rows, *given))


@pytest.mark.parametrize("objective", ["flow_grpo", "grpo_guard", "nft"])
def test_gradients_do_not_depend_on_the_micro_batch(pipe, fresh_pipe, objective: str) -> None:
    options = {"sampler": "flow", "objective": objective, "eta": 0.7, "shares_noise": False}
    whole = gradients(stage(pipe, micro_batch_size=6, **options))
    split = gradients(stage(fresh_pipe, micro_batch_size=1, rollout_batch_size=6, **options))
    assert whole.keys() == split.keys()
    largest = max(float(x.abs().max()) for x in whole.values())
    assert largest > 0
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=1e-4 * largest, rtol=1e-3, msg=name)


@pytest.mark.parametrize("updates", [1, 2])
def test_a_rollout_is_followed_by_exactly_the_configured_number_of_optimizer_steps(
    pipe, updates: int
) -> None:
    made = stage(pipe, updates_per_rollout=updates)
    state = TrainState(made.modules, made.config.optim, 4, None)
    seen: list[list[int]] = []
    for step in range(4):
        numbers = set()
        for batch in made.batches(step):
            made.loss(batch).loss.backward()
            numbers |= {batch.rollout.numbers[n] for n in batch.members}
        state.update()
        assert made.buffer.number == step // updates
        seen.append(sorted(numbers))
    assert state.step == 4
    for first in range(0, 4, updates):  # each image in one update of its rollout
        parts = [number for part in seen[first : first + updates] for number in part]
        assert len(parts) == len(set(parts)) == 6


def test_a_window_over_all_steps_is_the_full_sde(pipe, fresh_pipe) -> None:
    full = explore(stage(pipe), 0)
    window = explore(stage(fresh_pipe, window=WindowConfig(kind="fixed", size=4)), 0)
    for one, other in zip(full.rollouts, window.rollouts, strict=True):
        assert torch.equal(one.trajectory.clean, other.trajectory.clean)
        assert torch.equal(one.trajectory.log_prob, other.trajectory.log_prob)


def test_steps_outside_the_window_are_the_ode(pipe, fresh_pipe) -> None:
    still = explore(stage(pipe, eta=0.0), 0)
    window = explore(stage(fresh_pipe, window=WindowConfig(kind="fixed", size=1, start=2)), 0)
    for one, other in zip(still.rollouts, window.rollouts, strict=True):
        assert torch.equal(one.trajectory.noisy[:, 2], other.trajectory.noisy[:, 0])


@pytest.mark.parametrize("is_whole", [False, True])
def test_the_kl_is_zero_before_the_first_update_and_not_after_it(pipe, is_whole: bool) -> None:
    changes = {"trains_transformer": True, "transformer_lora": None} if is_whole else {}
    made = stage(pipe, objective_options=("kl_coef=0.1",), **changes)
    state = TrainState(made.modules, made.config.optim, 4, None)
    first = [made.losses(batch).metrics["kl"].max() for batch in made.batches(0)]
    assert float(max(first)) == 0.0
    for batch in made.batches(0):
        made.loss(batch).loss.backward()
    state.update()
    later = [made.losses(batch).metrics["kl"].max() for batch in made.batches(1)]
    assert float(max(later)) > 0


def test_images_of_a_group_share_their_first_noise_only_if_asked(pipe, fresh_pipe) -> None:
    shared = explore(stage(pipe), 0).rollouts[0].trajectory.noisy[:, 0]
    own = explore(stage(fresh_pipe, shares_noise=False), 0).rollouts[0].trajectory.noisy[:, 0]
    assert torch.equal(shared[0], shared[1])
    assert not torch.equal(own[0], own[1])


def test_a_reward_that_died_is_masked_and_the_others_take_its_weight(pipe, fresh_pipe) -> None:
    panel = RewardEnsemble(
        {"brightness": Brightness(), "broken": Broken()}, config=RewardEnsembleConfig(failure_limit=1)
    )
    made = stage(pipe, panel=panel, rewards={"brightness": 1.0, "broken": 3.0})
    buffer = explore(made, 0)
    assert buffer.metrics["failure_rate/broken"] == (1.0, 1.0)
    alone = explore(stage(fresh_pipe), 0)
    # 1e-3: a total of weight 4 is four times as far from the 1e-4 that is added to its deviation
    np.testing.assert_allclose(buffer.advantages.values, alone.advantages.values, rtol=1e-3)


def test_a_run_stops_and_says_why_when_a_reward_fails_too_often(pipe) -> None:
    limits = RewardEnsembleConfig(failure_limit=0.5, failure_window=6, breaker_after=99)
    panel = RewardEnsemble({"brightness": Brightness(), "broken": Broken()}, config=limits)
    made = stage(pipe, panel=panel, rewards={"brightness": 1.0, "broken": 3.0})
    with pytest.raises(TooManyFailures, match=r"reward broken: 100% .* nobody answers"):
        explore(made, 0)


def test_a_rollout_of_nan_stops_before_it_is_learnt_what_a_black_picture_is_worth(fresh_pipe) -> None:
    made = stage(fresh_pipe)
    with torch.no_grad():
        fresh_pipe.transformer.proj_out.bias.fill_(float("nan"))
    with pytest.raises(
        NotFiniteError, match=r"infinite in 6 images \(numbers 12, 13, 14, 15, \.\.\.\)"
    ) as no:
        explore(made, 2)
    assert no.value.weights_step == 2  # checkpoints of these weights draw nothing else


def test_a_process_without_groups_of_its_own_takes_part(pipe) -> None:
    made = stage(pipe, prompts_per_rollout=1)
    made.processes = made.rollout_sampler.processes = AnotherOf(made.processes)
    nothing = made.rollout_sampler.sample(0, [0])
    assert nothing == []
    assert made.collect(nothing).rewards.shape == (0, 1)


def test_the_log_has_the_reward_of_each_set_of_prompts_beside_that_of_all(pipe) -> None:
    made = stage(pipe, prompts_per_rollout=6)
    one = PromptSet(name="first", rows=Rows(edits=False), weight=1.0, rewards={"brightness": 1.0})
    made.mix = made.rollout_sampler.mix = PromptMix(sets=(one, replace(one, name="second")))
    buffer = explore(made, 0)
    sets = [made.mix.draw(made.config.seed, int(group)).dataset for group in buffer.advantages.groups]
    assert set(sets) == {"first", "second"}
    for name in ("first", "second"):
        own = [total for total, of in zip(buffer.advantages.totals, sets, strict=True) if of == name]
        assert buffer.metrics[f"reward_of/{name}"] == (pytest.approx(np.sum(own)), len(own))
        assert buffer.metrics[f"scored_of/{name}"] == (len(own), 0)  # a count of 0: added up, not averaged
    assert buffer.metrics["reward"] == (pytest.approx(buffer.advantages.totals.sum()), 12)
    assert buffer.metrics["scored"] == (12, 0)


def test_groups_of_equals_are_dropped_and_a_rollout_of_them_alone_changes_nothing(pipe) -> None:
    made = stage(pipe, panel=RewardEnsemble({"brightness": Constant()}))
    assert list(made.batches(0)) == []
    assert made.buffer.metrics["groups/flat_share"] == (1.0, 1.0)
    state = TrainState(made.modules, made.config.optim, 4, None)
    before = {name: p.detach().clone() for name, p in state.parameters.items()}
    state.update()
    assert all(torch.equal(before[name], p) for name, p in state.parameters.items())
    assert state.step == 1


def test_groups_of_equals_are_replaced_by_groups_of_other_prompts(pipe) -> None:
    class FirstPromptsAreEqual(Brightness):
        def judge(self, candidate) -> RewardResult:
            calls.append(candidate)
            return RewardResult(0.0) if len(calls) <= 6 else super().judge(candidate)

    calls: list[Any] = []
    made = stage(pipe, panel=RewardEnsemble({"brightness": FirstPromptsAreEqual()}), flat_groups="resample")
    buffer = explore(made, 0)
    assert len(buffer.advantages.flat) == 0
    assert buffer.rewards.numbers.tolist() == [6, 7, 8, 9, 10, 11]
    assert sorted(buffer.parts[0]) == [6, 7, 8, 9, 10, 11]


def test_the_supervised_loss_is_mixed_in_as_a_convex_sum(pipe, fresh_pipe, mixture: Path) -> None:
    def made(of: DeepGenPipeline, coef: float) -> RLStage:
        settings = config(sft_coef=coef, data=mixture, global_batch_size=3)
        data = open_mixture(mixture)
        torch.manual_seed(0)
        return RLStage(
            settings, Processes("cpu"), of, mix(), RewardEnsemble({"brightness": Brightness()}), data
        )

    mixed = made(pipe, 0.25)
    both = gradients(mixed)
    alone = made(fresh_pipe, 0.0)
    policy = gradients(alone)
    for batch in mixed.supervised.batches(0):
        mixed.supervised.loss(batch).loss.backward()
    supervised = {n: p.grad.clone() for n, p in mixed.modules.named_parameters() if p.grad is not None}
    for name, gradient in both.items():
        expected = 0.75 * policy[name] + 0.25 * supervised[name]
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4, msg=name)


def test_the_supervised_loss_is_computed_while_rewards_judge(pipe, mixture: Path) -> None:
    class Patient(Brightness):
        def judge(self, candidate) -> RewardResult:
            assert is_supervised.wait(timeout=60), "the verdict was waited for before the supervised loss"
            return super().judge(candidate)

    is_supervised = threading.Event()
    settings = config(sft_coef=0.25, data=mixture, global_batch_size=3)
    panel = RewardEnsemble({"brightness": Patient()}, config=RewardEnsembleConfig(failure_limit=1))
    made = RLStage(settings, Processes("cpu"), pipe, mix(), panel, open_mixture(mixture))
    kinds = []
    for batch in made.batches(0):
        kinds.append(type(batch).__name__)
        if isinstance(batch, TrainingBatch):
            is_supervised.set()
    assert kinds == sorted(kinds, reverse=True)
    assert set(kinds) == {"TrainingBatch", "PolicyBatch"}
    assert made.buffer.rewards.valid.all()


@pytest.mark.parametrize("trains_connector", [False, True])
def test_the_next_rollouts_prompts_are_read_while_rewards_judge(
    pipe, fresh_pipe, trains_connector: bool
) -> None:
    made = stage(pipe, trains_connector=trains_connector, num_steps=2)
    ask, events = made.policy.encode, []
    made.policy.encode = lambda prompts, *rest: events.append(prompts[0].text) or ask(prompts, *rest)
    collect = made.ensemble.collect
    made.ensemble.collect = lambda: events.append("collect") or collect()
    buffers = [explore(made, 0), explore(made, 1)]
    first, second = (one.rollouts[0].prompts[0].prompt.text for one in buffers)
    # A prompt that a step would read in another way is not read before it; the last rollout has no next one.
    expected = (
        [first, "collect", second, "collect"] if trains_connector else [first, second, "collect", "collect"]
    )
    assert events == expected
    alone = explore(stage(fresh_pipe, trains_connector=trains_connector), 1).rollouts[0]
    assert torch.equal(buffers[1].rollouts[0].trajectory.clean, alone.trajectory.clean)


def test_nft_compares_with_the_policy_that_drew_the_images_in_every_update(pipe) -> None:
    made = stage(pipe, objective="nft", shares_noise=False, updates_per_rollout=2)
    state = TrainState(made.modules, replace(made.config.optim, lr=0.05), 4, None)
    drew = []
    for batch in made.batches(0):
        drew.append(made.losses(batch).metrics)
        made.loss(batch).loss.backward()
    # before the first update both implicit policies are the old one
    assert all(torch.allclose(m["positive_loss"], m["negative_loss"], rtol=1e-4) for m in drew)
    state.update()
    later = [made.losses(batch).metrics for batch in made.batches(1)]
    assert any(not torch.allclose(m["positive_loss"], m["negative_loss"], rtol=1e-4) for m in later)


def test_connector_and_think_tokens_learn_where_they_are_asked_to(pipe) -> None:
    made = stage(pipe, trains_connector=True, transformer_lora=None)
    found = gradients(made)
    assert found
    assert all(name.startswith("connector.") for name in found)
    assert any("think" in name and float(x.abs().max()) > 0 for name, x in found.items())


def test_a_prompt_of_a_group_is_a_function_of_seed_and_number() -> None:
    prompts: list[Prompt] = [mix().draw(0, n) for n in range(20)]
    assert [p.key for p in prompts] == [mix().draw(0, n).key for n in range(20)]
    assert [p.key for p in prompts] != [mix().draw(1, n).key for n in range(20)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"group_size": 1}, "leaves nothing to compare with"),
        ({"updates_per_rollout": 3}, "multiples of updates_per_rollout"),
        ({"sft_coef": 1.0}, "sft_coef must be in"),
        ({"objective": "ppo"}, "unknown objective"),
        ({"objective_options": ("clip=1",)}, "no field"),
        ({"advantage": "best"}, "unknown advantages"),
        ({"sampler": "euler"}, "unknown sampler"),
        ({"objective": "nft"}, "shares_noise=false"),
        ({"window": WindowConfig(kind="fixed", size=9)}, "window of 9 steps"),
        ({"transformer_lora": LoraSettings(rank=2, alpha=2, dropout=0.1)}, "set 0"),
        ({"sharding": "fsdp"}, "sharding=none"),
        ({"max_log_prob_gap": 0.0}, "max_log_prob_gap must be above 0"),
    ],
)
def test_impossible_settings_are_refused_with_what_to_do(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**changes)


def test_epochs_end_a_run_where_that_is_before_its_steps(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"{n} red circles\n" for n in range(7)))
    known = {"prompts": tmp_path / "prompts.txt", "rewards": ("jpeg=1",), "updates_per_rollout": 2}
    epochs = config(num_epochs=3, num_steps=100, prompts_per_rollout=2, **known)
    assert epochs.with_known_length() == replace(epochs, num_steps=22)  # 21 prompts, two in a rollout
    short = config(num_epochs=3, num_steps=10, **known)
    assert short.with_known_length() == short
    assert config(num_steps=10, **known).with_known_length().num_steps == 10
    with pytest.raises(ValueError, match="num_epochs must be at least 1"):
        config(num_epochs=0)


def test_rewards_that_no_file_would_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    mix = tmp_path / "mix.yaml"
    mix.write_text("datasets:\n  - {name: prompts, rewards: {jpeg: 1}}\n")
    given = config(prompts=mix, rewards=("ocr=1",))
    with pytest.raises(ValueError, match=r"rewards ocr=1 would not be used: .*mix\.yaml names its own"):
        given.build(Processes("cpu"))
    refuse_unused_rewards(("ocr=1",), mix, tmp_path / "prompts.txt")  # the second is scored with it
    refuse_unused_rewards((), mix)


# --- whole runs on the small model --------------------------------------------------------------------------

PROMPTS = """
rewards: {right: {scorer: shapes, credit: partial}}
datasets:
  - {name: counting, shapes: generate, kinds: [counting], rows: 8, rewards: {right: 1}}
  - {name: recolor, shapes: edit, kinds: [recolor], rows: 8, rewards: {right: 1}}
"""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    return tmp_path / "prompts.yaml"


def run(prompts: Path, **changes: Any) -> RLConfig:
    base = recipe("rl-shapes")
    assert isinstance(base, RLConfig)
    settings = {
        "prompts": prompts,
        "device": "cpu",
        "num_steps": 4,
        "prompts_per_rollout": 4,
        "group_size": 2,
        "num_inference_steps": 3,
        "window": WindowConfig(kind="fixed", size=2),
        "save_every": 2,
        "sheet_every": 2,
    }
    return replace(base, **{**settings, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    snapshot = read_checkpoint_folder(latest_checkpoint(folder))
    return {**snapshot.model, **snapshot.optimizer}


def test_a_run_resumed_ends_bit_by_bit_like_an_unbroken_one(prompts: Path, tmp_path: Path) -> None:
    settings = run(prompts, updates_per_rollout=2, keep=9)
    train(settings, tmp_path / "whole")
    train(replace(settings, num_steps=2), tmp_path / "broken")
    train(settings, tmp_path / "broken", resume=True)
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    drawn = read_records(tmp_path / "whole" / "samples" / "step-00000002.png")
    asked = {(record.num_inference_steps, record.solver) for record in drawn}
    assert asked == {(settings.num_inference_steps, settings.sampler)}


def test_the_exported_model_contains_what_was_learnt(prompts: Path, tmp_path: Path) -> None:
    settings = run(prompts, num_steps=2)
    train(settings, tmp_path / "run")
    export_folder(Trained(settings, tmp_path / "run"), tmp_path / "model")
    before, after = (
        DeepGenPipeline.from_pretrained("shapes"),
        DeepGenPipeline.from_pretrained(tmp_path / "model"),
    )
    changed = {
        name
        for name, value in before.transformer.state_dict().items()
        if not torch.equal(value, after.transformer.state_dict()[name])
    }
    assert changed
    assert all(".to_" in name or ".ff" in name or "add_" in name for name in changed)


def test_fixed_prompts_are_judged_before_the_first_step_and_on_the_way(prompts: Path, tmp_path: Path) -> None:
    looks = RLEvaluationConfig(prompts=prompts, every=2, num_prompts=4, num_inference_steps=2)
    train(run(prompts, evaluation=looks), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    seen = {line["step"]: {key for key in line if key.startswith("evaluation/")} for line in lines}
    assert seen[1] == seen[2] == seen[4] <= {"evaluation/counting/right", "evaluation/recolor/right"}
    assert seen[1]
    assert not seen[3]


def test_rewards_are_given_for_generation_and_editing_in_one_run(prompts: Path, tmp_path: Path) -> None:
    made = run(prompts).build(Processes("cpu"))
    buffer = explore(made, 0)
    tasks = {bool(one.prompt.references) for rollout in buffer.rollouts for one in rollout.prompts}
    assert buffer.rewards.valid.all()
    assert tasks <= {False, True}
    assert len({tuple(rollout.images[0].size) for rollout in buffer.rollouts}) == 1
