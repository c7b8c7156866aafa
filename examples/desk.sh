#!/bin/sh
# An agent that is a person, or a program that can't be called: puts the prompt on a desk, a folder, and
# waits there for an edited train.py and then idea.txt, whose first line says what was changed and why.
# After half an hour a call is ended; what lies there then is moved to train.late.py and idea.late.txt.
#   uv run ratchet night --agent "examples/desk.sh /tmp/desk" --share /tmp/desk
set -eu
desk=$1
if [ -e "$desk/prompt.md" ]; then # of a call that was ended
  mv "$desk/train.py" "$desk/train.late.py"
  [ ! -e "$desk/idea.txt" ] || mv "$desk/idea.txt" "$desk/idea.late.txt"
fi
rm -f "$desk/idea.txt"
cp train.py contract.md "$desk/"
cat > "$desk/prompt.new"
mv "$desk/prompt.new" "$desk/prompt.md" # complete once it is there
until [ -s "$desk/idea.txt" ]; do sleep 1; done
cp "$desk/train.py" train.py
mv "$desk/idea.txt" idea.txt
rm "$desk/prompt.md" # the next one is another call's
