"""How the embedded pair is made: question generator, tokenizer, training, export."""
