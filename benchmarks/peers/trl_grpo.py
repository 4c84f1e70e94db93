"""TRL's GRPOTrainer (1.16.0): no value model, 8 texts for each of 8 prompts, the same reward model and reference.

Its phases are told apart from outside: `_generate_and_score_completions` begins an iteration, `_generate` within it samples.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.arguments import begin, versions
from benchmarks.stopwatch import Stopwatch
from benchmarks.work_unit import KL, RATE, Work, words


def main() -> None:
    given = begin(__doc__)
    import torch
    from datasets import Dataset
    from transformers import GPT2LMHeadModel
    from trl import GRPOConfig, GRPOTrainer

    work, watch = Work(given.size, given.epochs, episodes=given.episodes), Stopwatch()
    tokenizer, judge = words(work.vocabulary), work.judge()
    judge.config._name_or_path = "judge"
    steps = work.episodes // work.minibatch
    begun = False
    with tempfile.TemporaryDirectory() as out:
        saved = Path(out) / "policy"  # the reference is read from there
        work.policy().save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        policy = GPT2LMHeadModel.from_pretrained(saved)
        policy.generation_config.eos_token_id = None
        prompts = [" ".join(f"w{i}" for i in row) for row in work.prompts(256)]
        trainer = GRPOTrainer(
            model=policy, reward_funcs=judge, processing_class=tokenizer, reward_processing_classes=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            args=GRPOConfig(
                output_dir=out, per_device_train_batch_size=work.minibatch, gradient_accumulation_steps=1,
                steps_per_generation=steps, num_generations=8, num_iterations=work.epochs, max_completion_length=work.new_tokens,
                temperature=1.0, top_k=0, learning_rate=RATE, beta=KL, report_to="none", save_strategy="no", bf16=False,
                use_cpu=True, disable_tqdm=True, logging_strategy="no", gradient_checkpointing=False,
                generation_kwargs={"min_new_tokens": work.new_tokens}, max_steps=(1 + given.iterations) * steps * work.epochs,
            ),
        )  # fmt: skip
        score, sample = trainer._generate_and_score_completions, trainer._generate

        def end() -> None:
            watch.lap("update")
            watch.end(work.episodes * work.new_tokens)

        def timed_score(*arguments: Any, **options: Any) -> Any:
            nonlocal begun
            if begun:
                end()
            begun = True
            watch.begin()
            found = score(*arguments, **options)
            watch.lap("score")
            return found

        def timed_sample(*arguments: Any, **options: Any) -> Any:
            watch.lap("score")
            found = sample(*arguments, **options)
            watch.lap("sample")
            return found

        trainer._generate_and_score_completions, trainer._generate = timed_score, timed_sample
        trainer.train()
        end()
    watch.report(who="TRL GRPO", size=work.size, epochs=work.epochs, threads=torch.get_num_threads(), **versions("trl"))


if __name__ == "__main__":
    main()
