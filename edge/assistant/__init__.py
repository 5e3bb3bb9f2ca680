"""Desktop assistant: a page on this machine that keeps conversations and says who answered."""
