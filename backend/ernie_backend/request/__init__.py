"""What a request is to the rooms above: its tokens, how they are sampled, and a step's share of them."""
