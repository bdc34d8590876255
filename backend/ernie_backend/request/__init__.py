"""What every room above sees of a request: its tokens, how they are sampled, and a step's share of them."""
