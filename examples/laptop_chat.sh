#!/usr/bin/env bash
# A conversation on a laptop with no network: through a pipe here, at your terminal without one.
set -euo pipefail
nearfar chat --offline --system "Answer in one word." <<'QUESTIONS'
What is the capital of France?
What is the capital of Italy?
/why
QUESTIONS
nearfar conversations list
