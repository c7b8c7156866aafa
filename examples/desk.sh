#!/bin/sh
# An agent that is a person, or a program that can't be called: puts the prompt on a desk, a folder, and
# waits there for an edited train.py and then idea.txt, whose first line says what was changed and why.
#   uv run ratchet night --agent "examples/desk.sh /tmp/desk" --share /tmp/desk
set -eu
desk=$1
rm -f "$desk/idea.txt"
cp train.py contract.md "$desk/"
cat > "$desk/prompt.new"
mv "$desk/prompt.new" "$desk/prompt.md" # complete once it is there
until [ -s "$desk/idea.txt" ]; do sleep 1; done
cp "$desk/train.py" train.py
mv "$desk/idea.txt" idea.txt
rm "$desk/prompt.md" # the next one is another call's
