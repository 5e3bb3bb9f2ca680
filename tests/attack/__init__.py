"""The attack on started servers: what `scripts/attack` sends, and what it asserts."""
