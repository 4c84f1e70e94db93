"""TRL's PPOTrainer (1.12.0 is the last release that has it), at its defaults: fp32, a value model of its own, all models in memory.

Its phases are told apart from outside: an iteration begins with `batch_generation`; the first `accumulate` begins the update.
"""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.peers.arguments import begin, versions
from benchmarks.stopwatch import Stopwatch
from benchmarks.work_unit import GAMMA, KL, LAMBDA, RATE, Work, words


def main() -> None:
    given = begin(__doc__)
    import torch
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    work = Work(given.size, given.epochs, episodes=given.episodes)
    iterations = 1 + given.iterations
    watch, updating = Stopwatch(), True
    tokens = work.episodes * work.new_tokens

    def end() -> None:
        watch.lap("update")
        watch.end(tokens)

    def generate(*arguments: Any, **options: Any) -> Any:
        nonlocal updating
        if generate.called:  # type: ignore[attr-defined]
            end()
        watch.begin()
        generate.called, updating = True, False  # type: ignore[attr-defined]
        found = sample(*arguments, **options)
        watch.lap("sample")
        if found[0].shape != (work.episodes, work.prompt_tokens + work.new_tokens):
            raise RuntimeError(f"sampled {tuple(found[0].shape)}: another work than the others'")
        return found

    generate.called = False  # type: ignore[attr-defined]
    sample, ppo_trainer.batch_generation = ppo_trainer.batch_generation, generate
    with tempfile.TemporaryDirectory() as out:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=out, per_device_train_batch_size=work.episodes, gradient_accumulation_steps=1,
                num_mini_batches=work.episodes // work.minibatch, num_ppo_epochs=work.epochs, response_length=work.new_tokens,
                total_episodes=work.episodes * iterations, local_rollout_forward_batch_size=work.episodes, learning_rate=RATE,
                kl_coef=KL, gamma=GAMMA, lam=LAMBDA, temperature=1.0, stop_token=None, missing_eos_penalty=None,
                num_sample_generations=0, report_to="none", save_strategy="no", logging_strategy="no", bf16=False, use_cpu=True,
                disable_tqdm=True, gradient_checkpointing=False,
            ),
            processing_class=words(work.vocabulary), model=work.policy(), ref_model=work.policy(), reward_model=work.judge(),
            value_model=work.judge(seed=2).train(),
            train_dataset=Dataset.from_dict({"input_ids": work.prompts(work.episodes * (iterations + 1)).tolist()}),
        )  # fmt: skip
        accumulate = trainer.accelerator.accumulate

        def update(*arguments: Any, **options: Any) -> Any:
            nonlocal updating
            if not updating:
                watch.lap("score")
                updating = True
            return accumulate(*arguments, **options)

        trainer.accelerator.accumulate = update
        trainer.train()
        end()
    watch.report(who="TRL PPO", size=work.size, epochs=work.epochs, threads=torch.get_num_threads(), **versions("trl"))


if __name__ == "__main__":
    main()
