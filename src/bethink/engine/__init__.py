"""Floor 3: token ids in, token ids and logprobs out."""
