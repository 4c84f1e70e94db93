"""Others' PPO over tokens on `benchmarks.work_unit`; each file runs in an interpreter of its own that need not have textenv.

    PATH -m benchmarks.peers.trl_ppo --size S --epochs 1          # pip install torch==2.13.0 trl==1.12.0 transformers==5.23.0
    PATH -m benchmarks.peers.trl_grpo --size S --epochs 1         # the same with trl==1.16.0
    PATH -m benchmarks.peers.sb3_ppo --size S --epochs 1          # torch, transformers, stable-baselines3

Each prints a line of JSON: who it is, peak memory, and its iterations but the first (`benchmarks.stopwatch`).
"""
