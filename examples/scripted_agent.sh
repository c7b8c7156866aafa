#!/bin/sh
# An agent that needs no language model: `uv run ratchet night --agent examples/scripted_agent.sh`.
# It reads the prompt, and has the first of its ideas below that stands there nowhere: EDIT|IDEA.
prompt=$(cat)
while IFS="|" read -r edit idea; do
  case "$prompt" in *"$idea"*) continue ;; esac
  sed "$edit" train.py > edited && cat edited > train.py && rm edited && echo "$idea" > idea.txt && exit
done <<END
s/^SOFTCAP = 15.0/SOFTCAP = 30.0/|Softcap 30 instead of 15
s/^        batch_size=8,/        batch_size=4,/|Batches of 4 rows instead of 8: twice as many steps
s/^ROPE_BASE = 100_000/ROPE_BASE = 10_000/|Rotary base 10,000 instead of 100,000
s/^        depth=2,/        depth=1,/|Depth 1 instead of 2: a smaller trunk sees more text
s/^NGRAMS = 3/NGRAMS = 4/|N-grams of up to 4 tokens instead of 3
s/^INIT_SCALE = 0.68/INIT_SCALE = 0.5/|A smaller initial scale, 0.5 instead of 0.68
END
