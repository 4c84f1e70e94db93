#!/usr/bin/env bash
# Detoxification on real text, start to end: a language model, a scorer, a judge, then token-level PPO against a word list.
#
#   bash examples/real_text.sh DATA OUT
#   TEXTENV=".venv/bin/textenv" bash examples/real_text.sh DATA OUT     # or "python -m textenv": where textenv is not on the PATH
#
# DATA holds books.txt.gz, sentiment_sentences.jsonl.gz, toxic_tweets.jsonl.gz (text, toxic), toxic_spans_train.jsonl.gz (text,
# toxic_characters), detox_prompts.jsonl.gz (prompt.text) and profanity_en.txt. The judge learns from other data than the scorer
# that gives the reward. About 30 minutes of one core; OUT/run/metrics.json holds the result.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit
fi
data=${1:?"usage: bash examples/real_text.sh DATA OUT"}
out=${2:?"usage: bash examples/real_text.sh DATA OUT"}
textenv=${TEXTENV:-textenv}

$textenv pretrain "$data"/{books.txt.gz,sentiment_sentences.jsonl.gz,toxic_tweets.jsonl.gz} --out "$out/lm" \
  --batch-size 8 --learning-rate 2e-3 --steps 3400 &
$textenv fit-scorer "$data/toxic_spans_train.jsonl.gz" --sentences --label toxic_characters --labels civil,toxic \
  --epochs 3 --out "$out/judge"
wait $!
$textenv fit-scorer "$data/toxic_tweets.jsonl.gz" --label toxic --labels civil,toxic --base "$out/lm" --epochs 1 --out "$out/scorer"
$textenv train textenv/Detox-v0 --policy "$out/lm" --scorer "$out/scorer" --judge "$out/judge" \
  --prompts "$data/detox_prompts.jsonl.gz" --critic "lexicon:$data/profanity_en.txt" --reward critic_span \
  --total-timesteps 120000 --k 25 --out "$out/run"
