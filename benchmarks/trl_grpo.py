"""TRL's on-policy trainer with a scripted reward: prints { seconds_per_iteration, mean_length, iterations, ... }.

usage: python benchmarks/trl_grpo.py MODEL [--iterations N] [--completions N] [--tokens N] [--threads N]
needs: torch, transformers, datasets, trl (CPU)

GRPO, since PPO left TRL in 2026: it has no value model. An iteration samples completions (64 of at most 128 tokens, eight of
each prompt), counts "happy" in them, computes the log-probs of a frozen reference (beta is not 0), and takes one optimizer
step on all of them. Seconds are the median of iterations after one that is not measured.
"""
import argparse
import json
import os
import statistics
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--iterations", type=int, default=4)
parser.add_argument("--completions", type=int, default=64)
parser.add_argument("--tokens", type=int, default=128)
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)

openings = ["Once upon a time", "Tom and Lily", "The big dog", "One day, a little girl"]
prompts = Dataset.from_list([{"prompt": opening} for opening in openings * 64])


def happy(completions, **_):
    return [float(completion.count("happy")) for completion in completions]


class Clock(TrainerCallback):
    ends = []

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())


with tempfile.TemporaryDirectory() as directory:
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(arguments.model),
        reward_funcs=happy,
        args=GRPOConfig(
            output_dir=directory,
            per_device_train_batch_size=arguments.completions,
            num_generations=8,
            max_completion_length=arguments.tokens,
            max_steps=1 + arguments.iterations,
            learning_rate=1e-5,
            beta=0.02,
            temperature=1.0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
            logging_steps=1,
            save_strategy="no",
        ),
        train_dataset=prompts,
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
        callbacks=[Clock()],
    )
    trainer.train()

seconds = [end - begun for begun, end in zip(Clock.ends, Clock.ends[1:])]
lengths = [entry["completions/mean_length"] for entry in trainer.state.log_history if "completions/mean_length" in entry]
print(json.dumps({
    "seconds_per_iteration": round(statistics.median(seconds), 4), "mean_length": statistics.mean(lengths[1:]),
    "seconds": [round(second, 3) for second in seconds], "iterations": len(seconds),
    "trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__,
}))
