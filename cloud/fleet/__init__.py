"""Several engines as one: who answers, how many there are, and what becomes of one that dies."""
